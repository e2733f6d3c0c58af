"""The frozen CLIP under EmoVCLIP: which architecture, which weights, which tokenizer, which size of images."""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from open_clip.transformer import QuickGELU
from torch import nn

from emo_ray import store
from emo_ray.config import RECIPES, Config
from emo_ray.models.clip_formats import State, quick_gelu_beside, read_folder, read_json, read_state

VERSION = 1  # part of the feature digests: raise it when the same weights and prompts give other values
_POSITIONS = "visual.positional_embedding"


@dataclass(frozen=True)
class _Source:
    """What a config names as its CLIP; nothing of it is loaded yet."""

    name: str  # of the architecture, or the folder
    architecture: dict[str, Any]  # open_clip's model config
    weights: Path | str | None  # a file, a pretrained tag, or None: random
    statistics: dict[str, Any]  # `mean` and `std` of pixels; where they are not there, OpenAI's
    is_folder: bool = False


def load_clip(config: Config) -> nn.Module:
    """The open_clip model of `emovclip.clip` with `emovclip.weights`, for images of `media.image_size`.

    The weights are a pretrained tag, a local file, those of the folder that `emovclip.clip` is, or None: random ones
    that only the architecture and `config.seed` decide (and, in their last bits, whether the CPU is an x86 or an ARM).
    Raises ValueError for weights that do not fit.
    """
    source, size = _source(config), image_size(config)
    state, quick_gelu = _read(source)
    architecture = source.architecture | ({"quick_gelu": True} if quick_gelu else {})
    with torch.random.fork_rng(devices=[], enabled=state is None):
        if state is None:
            torch.manual_seed(config.seed)
        clip = _built(architecture, source.statistics)
    if state is not None:
        _fill(clip, state, source)
    return (clip if size == _native_size(source) else _resized(clip, architecture, source.statistics, size)).eval()


def tokenizer(config: Config) -> Callable[..., torch.Tensor]:
    """The tokenizer of the config's CLIP; a JSON architecture may have byte-pair merges of its own beside it."""
    source, merges = _source(config), _merges(config)
    if source.is_folder:
        text = source.architecture["text_cfg"]
        length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        return open_clip.SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {}))
    return open_clip.get_tokenizer(source.name, **({"bpe_path": str(merges)} if merges else {}))


def pixel_statistics(clip: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (3, 1, 1) by which the CLIP wants pixels in [0, 1] normalised."""
    own = open_clip.get_model_preprocess_cfg(clip)
    mean, std = own.get("mean") or open_clip.OPENAI_DATASET_MEAN, own.get("std") or open_clip.OPENAI_DATASET_STD
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def image_size(config: Config) -> int:
    """The side in pixels of the square images that the CLIP of this config takes, without building it.

    It is `media.image_size` where that is given: any multiple of the patch. Raises ValueError for other sizes.
    """
    source = _source(config)
    native, wanted = _native_size(source), config.media.image_size
    if wanted in (None, native):
        return native
    vision = source.architecture["vision_cfg"]
    patch = vision.get("patch_size", 16) if isinstance(vision.get("layers", 12), int) else None
    if not isinstance(patch, int):
        raise ValueError(f"media.image_size: found {wanted}, expected {native}, the size of {source.name}")
    if wanted % patch:
        below = wanted // patch * patch
        near = " or ".join(str(side) for side in (below, below + patch) if side)
        raise ValueError(
            f"media.image_size: found {wanted}, expected {near}: the patches of {source.name} are {patch} pixels wide"
        )
    return wanted


def frozen_digest(config: Config) -> str:
    """Digest of the frozen CLIP: architecture, weights (by content for files, by tag or seed otherwise), image size."""
    source, size, merges = _source(config), image_size(config), _merges(config)
    weights = ("random", config.seed) if source.weights is None else source.weights
    if isinstance(weights, Path):
        weights = store.digest_path(weights)
    beside = source.statistics if source.is_folder else merges and store.digest_path(merges)
    resized = () if size == _native_size(source) else ("image_size", size)
    return store.digest(source.architecture, weights, beside, VERSION, *resized)


def tensor_digest(clip: nn.Module) -> torch.Tensor:
    """16 bytes (uint8) over a CLIP's tensors (names, shapes, values in float32) and over where it has QuickGELU.

    It knows the CLIP whatever the type its weights are stored in and whatever size its images have: interpolated
    positions differ in their last bit between machines, so the table they were made from counts in their place.
    """
    state = clip.state_dict() | getattr(clip, "before_resizing", {})
    seen = hashlib.blake2b(digest_size=16)
    for name, module in clip.named_modules():
        if isinstance(module, QuickGELU):
            seen.update(f"{name};".encode())
    for name, value in sorted(state.items()):
        seen.update(f"{name}{tuple(value.shape)};".encode())
        seen.update(value.detach().to("cpu", torch.float32).contiguous().view(-1).numpy())
    return torch.frombuffer(bytearray(seen.digest()), dtype=torch.uint8)


def description(config: Config) -> str:
    """The CLIP and its weights in a few words, for people."""
    name, weights = config.emovclip.clip, config.emovclip.weights
    if _shipped(name).is_dir():
        return f"{name}, its own weights"
    return f"{name}, weights {weights or 'random (no pretraining)'}"


def _source(config: Config) -> _Source:
    """What the config names. Raises ValueError for what is not there, or cannot go together."""
    own = config.emovclip
    if _shipped(own.clip).is_dir():
        if own.weights is not None:
            raise ValueError(
                f"emovclip.weights: found {own.weights!r} with the folder {own.clip} as emovclip.clip, expected none, "
                "for a folder brings its own: set emovclip.weights=null"
            )
        found = read_folder(_shipped(own.clip))
        source = _Source(own.clip, found.architecture, found.weights, found.statistics, is_folder=True)
    else:
        name = _architecture(own.clip)
        architecture, weights = open_clip.get_model_config(name), _weights(name, own.weights)
        tag = open_clip.get_pretrained_cfg(name, weights) if isinstance(weights, str) else {}
        source = _Source(name, architecture, weights, {key: tag[key] for key in ("mean", "std") if key in tag})
    vision, text = source.architecture["vision_cfg"], source.architecture["text_cfg"]
    foreign = vision.get("timm_model_name") or text.get("hf_model_name") or source.architecture.get("multimodal_cfg")
    if foreign:
        raise ValueError(f"emovclip.clip={own.clip}: found a tower {foreign}, expected open_clip's own, as in ViT-B-16")
    return source


def _architecture(name: str) -> str:
    """The name under which open_clip knows the architecture, registering a JSON config first."""
    if name.endswith(".json"):
        path = _shipped(name)
        if not path.is_file():
            raise ValueError(f"emovclip.clip: found no file {name}, expected an open_clip model config")
        if open_clip.get_model_config(path.stem) != read_json(path):
            open_clip.add_model_config(path)
        name = path.stem
    if open_clip.get_model_config(name) is None:
        names = ", ".join(open_clip.list_models())
        raise ValueError(f"emovclip.clip: found {name!r}, expected a folder with a CLIP, or one of {names}")
    return name


def _weights(name: str, weights: str | None) -> Path | str | None:
    """A file as its path, a pretrained tag as it stands."""
    if weights is None:
        return None
    path = _shipped(weights)
    if path.is_dir():
        raise ValueError(f"emovclip.weights: found the folder {path}, expected a file: folders go to emovclip.clip")
    if path.exists():
        return path
    plain, tags = name.removesuffix("-quickgelu"), open_clip.list_pretrained_tags_by_model(name)
    tag = open_clip.get_pretrained_cfg(name, weights) or open_clip.get_pretrained_cfg(plain, weights)
    if tag and open_clip.get_model_config(name).get("quick_gelu") and not tag.get("quick_gelu"):
        raise ValueError(
            f"emovclip.weights: found {weights!r}, which was not trained with the QuickGELU of emovclip.clip={name}, "
            f"expected {f'emovclip.clip={plain}' if plain != name else 'an architecture without it'}"
        )
    if weights not in tags:
        known = ", ".join(tags) or "none"
        raise ValueError(f"emovclip.weights: found {weights!r}, expected a file or a pretrained tag of {name}: {known}")
    return weights


def _read(source: _Source) -> tuple[State | None, bool]:
    """The published weights (None: random) and whether they were trained with QuickGELU. May download a tag's file."""
    quick_gelu = bool(source.architecture.get("quick_gelu"))
    if source.weights is None:
        return None, quick_gelu
    if isinstance(source.weights, str):
        tag = open_clip.get_pretrained_cfg(source.name, source.weights)
        try:
            path = Path(open_clip.download_pretrained(tag))
        except OSError as error:
            raise ValueError(
                f"emovclip.weights: found the tag {source.weights!r}, and no way to its file ({error}), expected a "
                "network, or a local file or folder"
            ) from error
        return read_state(path)[0], bool(tag.get("quick_gelu"))
    state, form = read_state(source.weights)
    if source.is_folder:
        return state, quick_gelu
    if form == "transformers":
        raise ValueError(
            f"emovclip.weights: found transformers' weights in {source.weights}, which do not say their activation, "
            "expected their folder as emovclip.clip"
        )
    beside = quick_gelu_beside(source.weights)
    if form != "openai" and beside is not None and beside != quick_gelu:
        raise ValueError(
            f"emovclip.weights: found {source.weights}, of a CLIP {'with' if beside else 'without'} QuickGELU as the "
            f"JSON beside it says, expected the same of {source.name}: give the folder as emovclip.clip"
        )
    return state, quick_gelu or form == "openai"


def _built(architecture: dict[str, Any], statistics: dict[str, Any]) -> nn.Module:
    """A fresh model of an open_clip config."""
    own = deepcopy(architecture)
    clip = (open_clip.CustomTextCLIP if own.pop("custom_text", False) else open_clip.CLIP)(**own)
    default = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    open_clip.set_model_preprocess_cfg(clip, {"size": clip.visual.image_size, **default, **statistics})
    return clip


def _fill(clip: nn.Module, state: State, source: _Source) -> None:
    """Put published weights into a fresh model. Raises ValueError where they are those of another architecture."""
    state = convert_to_custom_text_state_dict(state) if hasattr(clip, "text") else dict(state)
    own = clip.state_dict()
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].view(own["logit_scale"].shape)  # published as a scalar or a vector
    wrong = [f"no {name}" for name in own if name not in state]
    wrong += [f"{name}, which it has not" for name in state if name not in own]
    wrong += [
        f"{name} of shape {tuple(state[name].shape)} where it has {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{source.weights}: found weights that do not fit {source.name} ({'; '.join(wrong[:3])}), expected those "
            "of that architecture: name theirs as emovclip.clip (and another size of images as media.image_size)"
        )
    clip.load_state_dict(state)


def _resized(clip: nn.Module, architecture: dict[str, Any], statistics: dict[str, Any], size: int) -> nn.Module:
    """The same CLIP for square images of another size: open_clip interpolates its positions."""
    vision = architecture["vision_cfg"] | {"image_size": size}
    with torch.random.fork_rng(devices=[]):  # what is drawn after it does not depend on the size
        other = _built(architecture | {"vision_cfg": vision}, statistics)
    state = clip.state_dict()
    before = {_POSITIONS: state[_POSITIONS].clone()}
    resize_pos_embed(state, other)
    other.load_state_dict(state)
    other.before_resizing = before
    return other


def _native_size(source: _Source) -> int:
    size = source.architecture["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"emovclip.clip={source.name}: found image size {size}, expected a square")
    return sides.pop()


def _merges(config: Config) -> Path | None:
    """The byte-pair merges beside a JSON architecture, where there are any."""
    if not config.emovclip.clip.endswith(".json"):
        return None
    path = _shipped(config.emovclip.clip).with_suffix(".bpe.gz")
    return path if path.is_file() else None


def _shipped(name: str) -> Path:
    """The path of a file of the user's, or of one that lies beside our recipes."""
    return Path(name) if Path(name).exists() else RECIPES / name
