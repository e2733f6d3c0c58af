"""CLIPs as others publish them, read into open_clip's terms: files of weights, and Hugging Face folders.

OpenAI's archives and transformers' folders name and cut tensors in ways of their own. The activation is no tensor:
OpenAI trained with QuickGELU, folders say it in their JSON, and a bare file says nothing.
"""

import json
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.factory import load_state_dict
from safetensors import SafetensorError

VOCABULARY, END = 49408, 49407  # CLIP's own tokenizer: its size, its last token
Form = Literal["open_clip", "openai", "transformers"]
State = dict[str, torch.Tensor]

_OPEN_CLIP, _TRANSFORMERS, _PIXELS = "open_clip_config.json", "config.json", "preprocessor_config.json"
_WEIGHTS = {
    _OPEN_CLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    _TRANSFORMERS: ("model.safetensors", "pytorch_model.bin"),
}
_ONLY_OPENAI = ("input_resolution", "context_length", "vocab_size")  # sizes among the tensors
_ONLY_TRANSFORMERS = "vision_model.embeddings.class_embedding"
_RENAMED = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "visual_projection.weight": "visual.proj",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".self_attn.": ".attn.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


@dataclass(frozen=True)
class Published:
    """A whole CLIP in a folder: open_clip's model config, the file of weights, and the pixels' `mean` and `std`."""

    architecture: dict[str, Any]
    weights: Path
    statistics: dict[str, list[float]]


def read_state(path: Path) -> tuple[State, Form]:
    """float32 weights in open_clip's names, and the form they were found in. Raises ValueError for other files."""
    try:
        state = _archive(path) if _is_archive(path) else load_state_dict(str(path))
        form: Form = "open_clip"
        if all(name in state for name in _ONLY_OPENAI):
            form, state = "openai", {name: value for name, value in state.items() if name not in _ONLY_OPENAI}
        elif _ONLY_TRANSFORMERS in state:
            form, state = "transformers", _from_transformers(state)
        return {name: value.float() for name, value in state.items()}, form
    # What torch, pickle and safetensors raise for broken files and for files of something else.
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, SafetensorError, AttributeError, TypeError,
            LookupError, StopIteration) as error:  # fmt: skip
        raise ValueError(  # without torch's own message, which advises to run whatever is in the file
            f"{path}: found no weights of a CLIP ({type(error).__name__}), expected a state dict (.safetensors, .pt, "
            ".bin) or OpenAI's own .pt"
        ) from error


def read_folder(folder: Path) -> Published:
    """The CLIP of a Hugging Face folder, in open_clip's form or in that of transformers' CLIPModel.

    No weights are read. Raises ValueError for other folders, and for CLIPs with another tokenizer than CLIP's own.
    """
    readers = {_OPEN_CLIP: _open_clip_folder, _TRANSFORMERS: _transformers_folder}
    for name, read in readers.items():
        weights = [folder / file for file in _WEIGHTS[name] if (folder / file).is_file()]
        if weights and (folder / name).is_file():
            architecture, statistics = read(folder)
            _check_tokenizer(folder, architecture["text_cfg"])
            return Published(architecture, weights[0], statistics)
    wanted = " or ".join(f"{name} with {' or '.join(files)}" for name, files in _WEIGHTS.items())
    raise ValueError(f"emovclip.clip={folder}: found a folder without a CLIP, expected {wanted} in it")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ValueError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON ({error}), expected a mapping") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}, expected a mapping")
    return found


def quick_gelu_beside(path: Path) -> bool | None:
    """Whether the open_clip config in a file's own folder asks for QuickGELU; None where there is no such config."""
    config = path.parent / _OPEN_CLIP
    return bool(read_json(config).get("model_cfg", {}).get("quick_gelu")) if config.is_file() else None


def _is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file as torch.save's are, but with code and its constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _archive(path: Path) -> State:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the format is OpenAI's choice
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
    missing = [name for name in _ONLY_OPENAI if name not in state]
    if missing:
        raise ValueError(
            f"{path}: found a TorchScript archive without {', '.join(missing)}, expected OpenAI's own: of other models "
            "give the state dict"
        )
    return state


def _from_transformers(state: State) -> State:
    """Weights of transformers' CLIPModel by the names of open_clip, which keeps q, k and v in one matrix."""
    renamed: State = {}
    for name, value in state.items():
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
        renamed[name] = value
    for name in [name for name in renamed if ".q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    for name in ("visual.proj", "text_projection"):  # matrices that are applied from the right
        renamed[name] = renamed[name].T
    return {name: value for name, value in renamed.items() if not name.endswith(".position_ids")}  # of old versions


def _open_clip_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's model config and the statistics of pixels, as `open_clip.push_to_hf_hub` writes them."""
    config = read_json(folder / _OPEN_CLIP)
    architecture, pixels = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    missing = [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in architecture]
    if missing:
        raise ValueError(f"{folder / _OPEN_CLIP}: found no {', '.join(missing)} in model_cfg, expected a model config")
    return architecture, {name: pixels[name] for name in ("mean", "std") if name in pixels}


def _transformers_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """transformers' CLIPConfig as an open_clip model config, and the statistics of pixels."""
    from transformers import CLIPConfig  # seconds to import

    kind = read_json(folder / _TRANSFORMERS).get("model_type")
    if kind != "clip":
        raise ValueError(f"emovclip.clip={folder}: found a model of type {kind!r}, expected 'clip'")
    config = CLIPConfig.from_pretrained(folder)  # which knows what config.json leaves out
    text, vision = config.text_config, config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if activations not in ({"quick_gelu"}, {"gelu"}):
        raise ValueError(
            f"emovclip.clip={folder}: found hidden_act {' and '.join(sorted(activations))}, expected quick_gelu or "
            "gelu in both towers"
        )
    if text.eos_token_id not in (2, END):  # 2 is what old configs say, and transformers then takes the last token
        raise ValueError(
            f"emovclip.clip={folder}: found eos_token_id {text.eos_token_id}, expected that of CLIP's tokenizer, {END}"
        )
    architecture = {
        "embed_dim": config.projection_dim,
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            **_tower(vision),
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
        },
        "text_cfg": {
            **_tower(text),
            "heads": text.num_attention_heads,
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
        },
    }
    pixels = read_json(folder / _PIXELS) if (folder / _PIXELS).is_file() else {}
    return architecture, {name: pixels[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in pixels}


def _tower(config: Any) -> dict[str, Any]:
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        # open_clip rounds width times ratio down: half a unit more, or 120 of 88 become 119.
        "mlp_ratio": (config.intermediate_size + 0.5) / config.hidden_size,
        "norm_kwargs": {"eps": config.layer_norm_eps},
    }


def _check_tokenizer(folder: Path, text: dict[str, Any]) -> None:
    """Raise ValueError where a folder's texts are not cut into tokens by CLIP's own tokenizer."""
    config = folder / "tokenizer_config.json"
    kind = read_json(config).get("tokenizer_class") if config.is_file() else None
    size, named = text.get("vocab_size", VOCABULARY), text.get("hf_tokenizer_name")
    if size != VOCABULARY or named or kind not in (None, "CLIPTokenizer", "CLIPTokenizerFast"):
        raise ValueError(
            f"emovclip.clip={folder}: found the tokenizer {named or kind or 'of no name'} and {size} tokens, expected "
            f"CLIP's own with {VOCABULARY}"
        )
    words = None
    if (folder / "vocab.json").is_file():
        words = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").is_file():
        words = read_json(folder / "tokenizer.json").get("model", {}).get("vocab")
    if words is not None and _words(words) != _words(open_clip.SimpleTokenizer().encoder):
        raise ValueError(f"emovclip.clip={folder}: found another vocabulary than CLIP's own, expected the same tokens")


def _words(vocabulary: dict[str, int]) -> dict[str, int]:
    """All but the start and end tokens, which have other names everywhere."""
    return {word: i for word, i in vocabulary.items() if i < END - 1}
