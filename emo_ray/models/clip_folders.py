"""Hugging Face folders that hold a CLIP: their JSON files, read into open_clip's terms.

Only JSON is read, no weights, and neither torch nor open_clip nor transformers is imported.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_ray import store

VOCABULARY, END = 49408, 49407  # the size of the vocabulary of CLIP's own tokenizer, and its last token
OPEN_CLIP_CONFIG = "open_clip_config.json"
CLIP_VOCABULARY_DIGEST = "96285316cda38cd4"  # `vocabulary_digest` of CLIP's own tokenizer
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_TRANSFORMERS_CONFIG, _PIXELS = "config.json", "preprocessor_config.json"
_WEIGHTS = {
    OPEN_CLIP_CONFIG: (
        *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        "open_clip_pytorch_model.bin",
    ),
    _TRANSFORMERS_CONFIG: ("model.safetensors", "pytorch_model.bin"),
}
# What transformers' CLIPConfig takes for keys that a config.json leaves out.
_COMMON = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_PROJECTION_DIM = 512
_TEXT = _COMMON | {
    **{"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    **{"vocab_size": VOCABULARY, "max_position_embeddings": 77, "eos_token_id": END},
}
_VISION = _COMMON | {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    **{"image_size": 224, "patch_size": 32},
}


@dataclass(frozen=True)
class Published:
    """A whole CLIP in a folder.

    It has open_clip's model config, the file of weights, the pixels' `mean` and `std`, and the folder again where its
    tokenizer is not CLIP's own.
    """

    architecture: dict[str, Any]
    weights: Path
    statistics: dict[str, list[float]]
    tokenizer: Path | None = None


def read_folder(folder: Path) -> Published:
    """The CLIP of a Hugging Face folder, in open_clip's form or in that of transformers' CLIPModel.

    Raises ValueError for other folders, and for CLIPs with another tokenizer than CLIP's own.
    """
    readers = {OPEN_CLIP_CONFIG: _open_clip_folder, _TRANSFORMERS_CONFIG: _transformers_folder}
    for name, read in readers.items():
        weights = [folder / file for file in _WEIGHTS[name] if (folder / file).is_file()]
        if weights and (folder / name).is_file():
            architecture, statistics = read(folder)
            text = architecture["text_cfg"]
            if name == OPEN_CLIP_CONFIG and text.get("hf_tokenizer_name") and (folder / "tokenizer.json").is_file():
                return Published(architecture, weights[0], statistics, folder)
            _check_tokenizer(folder, text)
            return Published(architecture, weights[0], statistics)
    expected = " or ".join(f"{name} with {' or '.join(files)}" for name, files in _WEIGHTS.items())
    raise ValueError(f"emovclip.clip={folder}: found a folder without a CLIP, expected {expected} in it")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError where the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error}), expected a mapping") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, expected a mapping")
    return content


def vocabulary_digest(vocabulary: dict[str, int]) -> str:
    """Digest of a vocabulary without its start and end tokens, whose names differ between publishers."""
    return store.digest({word: token for word, token in vocabulary.items() if token < END - 1})


def _open_clip_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's model config and the pixel statistics, as `open_clip.push_to_hf_hub` writes them."""
    config = read_json(folder / OPEN_CLIP_CONFIG)
    architecture, pixels = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    missing = [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in architecture]
    if missing:
        raise ValueError(
            f"{folder / OPEN_CLIP_CONFIG}: found no {', '.join(missing)} in model_cfg, expected a model config"
        )
    return architecture, {name: pixels[name] for name in ("mean", "std") if name in pixels}


def _transformers_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """transformers' CLIPConfig as an open_clip model config, and the pixel statistics."""
    config = read_json(folder / _TRANSFORMERS_CONFIG)
    if config.get("model_type") != "clip":
        raise ValueError(f"emovclip.clip={folder}: found a model of type {config.get('model_type')!r}, expected 'clip'")
    text, vision = _tower_config(config, "text", _TEXT), _tower_config(config, "vision", _VISION)
    activations = {text["hidden_act"], vision["hidden_act"]}
    if activations not in ({"quick_gelu"}, {"gelu"}):
        raise ValueError(
            f"emovclip.clip={folder}: found hidden_act {' and '.join(sorted(activations))}, expected quick_gelu or "
            "gelu in both towers"
        )
    if text["eos_token_id"] not in (2, END):  # old configs say 2, and transformers then takes the last token
        raise ValueError(
            f"emovclip.clip={folder}: found eos_token_id {text['eos_token_id']}, expected that of CLIP's tokenizer, "
            f"{END}"
        )
    architecture = {
        "embed_dim": config.get("projection_dim", _PROJECTION_DIM),
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            **_tower(vision),
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
        },
        "text_cfg": {
            **_tower(text),
            "heads": text["num_attention_heads"],
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
        },
    }
    pixels = read_json(folder / _PIXELS) if (folder / _PIXELS).is_file() else {}
    return architecture, {name: pixels[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in pixels}


def _tower_config(config: dict[str, Any], tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The config of the text or vision tower, with its defaults.

    Old files also have a `<tower>_config_dict`, which transformers prefers as a whole, its defaults included.
    """
    legacy = config.get(f"{tower}_config_dict")
    return defaults | (legacy if legacy is not None else config.get(f"{tower}_config") or {})


def _tower(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that both towers have in an open_clip model config."""
    return {
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        # open_clip rounds width times ratio down: without half a unit more, 120 of 88 would become 119.
        "mlp_ratio": (config["intermediate_size"] + 0.5) / config["hidden_size"],
        "norm_kwargs": {"eps": config["layer_norm_eps"]},
    }


def _check_tokenizer(folder: Path, text: dict[str, Any]) -> None:
    """Raises ValueError where a folder's texts are cut into tokens by another tokenizer than CLIP's own."""
    config = folder / "tokenizer_config.json"
    kind = read_json(config).get("tokenizer_class") if config.is_file() else None
    size, name = text.get("vocab_size", VOCABULARY), text.get("hf_tokenizer_name")
    if size != VOCABULARY or name or kind not in (None, "CLIPTokenizer", "CLIPTokenizerFast"):
        raise ValueError(
            f"emovclip.clip={folder}: found the tokenizer {name or kind or 'of no name'} and {size} tokens, expected "
            f"CLIP's own with {VOCABULARY}"
        )
    words = None
    if (folder / "vocab.json").is_file():
        words = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").is_file():
        words = read_json(folder / "tokenizer.json").get("model", {}).get("vocab")
    if words is not None and vocabulary_digest(words) != CLIP_VOCABULARY_DIGEST:
        raise ValueError(f"emovclip.clip={folder}: found another vocabulary than CLIP's own, expected the same tokens")
