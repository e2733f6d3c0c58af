"""Files of CLIP weights as others publish them, read into open_clip's names and shapes.

OpenAI's archives and transformers' files name and cut tensors in ways of their own. The activation is no tensor:
OpenAI trained with QuickGELU, folders say it in their JSON, and a bare file says nothing.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from emo_ray.models.clip_archive import is_archive, read_archive
from emo_ray.models.clip_folders import OPEN_CLIP_CONFIG, read_json
from emo_ray.models.trainable_state import not_finite

Form = Literal["open_clip", "openai", "transformers"]
State = dict[str, torch.Tensor]

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


def read_state(path: Path) -> tuple[State, Form]:
    """float32 weights by open_clip's names, and the form of the file. Nothing that is in the file is run.

    Raises ValueError for files of something else, and for weights that are not finite.
    """
    try:
        in_archive = is_archive(path)
        state = read_archive(path) if in_archive else _state_dict(path)
        missing = [name for name in _ONLY_OPENAI if name not in state]
        form: Form = "open_clip"
        if not missing:
            form, state = "openai", {name: value for name, value in state.items() if name not in _ONLY_OPENAI}
        elif _ONLY_TRANSFORMERS in state:
            form, state = "transformers", _from_transformers(state)
        weights = {name: value.float() for name, value in state.items()}
    except Exception as error:  # in any way that a file of anything can make torch, pickle or zipfile fail
        reason = f": {error}" if type(error) is ValueError else ""  # torch's advises to run whatever is in the file
        raise ValueError(
            f"{path}: found no weights of a CLIP ({type(error).__name__}{reason}), expected a state dict "
            "(.safetensors, .pt, .bin) or OpenAI's own .pt"
        ) from error
    if in_archive and missing:
        raise ValueError(
            f"{path}: found a TorchScript archive without {', '.join(missing)}, expected OpenAI's own: of other models "
            "give the state dict"
        )
    if wrong := not_finite(weights):
        raise ValueError(
            f"{path}: found values that are not finite in {len(wrong)} tensors ({', '.join(wrong[:3])}), expected "
            "numbers: the file is damaged, so get it again"
        )
    return weights, form


def quick_gelu_beside(path: Path) -> bool | None:
    """Whether the open_clip config in the folder of a file asks for QuickGELU; None where there is no such config."""
    config = path.parent / OPEN_CLIP_CONFIG
    return bool(read_json(config).get("model_cfg", {}).get("quick_gelu")) if config.is_file() else None


def _state_dict(path: Path) -> State:
    """The tensors of a .safetensors file or of one of torch.save, which runs nothing in it; as training or alone."""
    is_safetensors = path.suffix == ".safetensors"
    content: dict[str, Any] = load_file(path) if is_safetensors else torch.load(path, "cpu", weights_only=True)
    state = content.get("state_dict", content)
    parallel = next(iter(state)).startswith("module.")  # of a model that was wrapped for several GPUs
    return {name.removeprefix("module.") if parallel else name: value for name, value in state.items()}


def _from_transformers(state: State) -> State:
    """Weights of transformers' CLIPModel by the names of open_clip, which keeps q, k and v in one matrix."""
    renamed: State = {}
    for name, value in state.items():
        for published, renamed_part in _RENAMED.items():
            name = name.replace(published, renamed_part)
        renamed[name] = value
    for name in [name for name in renamed if ".q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    for name in ("visual.proj", "text_projection"):  # matrices that are applied from the right
        renamed[name] = renamed[name].T
    return {name: value for name, value in renamed.items() if not name.endswith(".position_ids")}  # of old versions
