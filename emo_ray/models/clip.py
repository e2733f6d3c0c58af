"""The frozen CLIP under EmoVCLIP: its model, its tokenizer and its pixel statistics, as open_clip makes them."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

import torch

from emo_ray.config import Config
from emo_ray.models.clip_library import open_clip
from emo_ray.models.clip_source import ClipSource, clip_source, image_size
from emo_ray.models.clip_weights import State, quick_gelu_beside, read_state

# open_clip has no types: for a type checker both are Any.
Clip: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP
_POSITIONS = "visual.positional_embedding"
_TOKENIZERS: dict[str, Callable[..., torch.Tensor]] = {}  # by all that decides them


def load_clip(config: Config) -> Clip:
    """The open_clip model of `emovclip.clip` with `emovclip.weights`, for images of `media.image_size`.

    The weights are a pretrained tag, a local file, those of the folder that `emovclip.clip` is, or None: random ones
    that only the architecture and `config.seed` decide (and, in their last bits, whether the CPU is an x86 or an ARM).
    Raises ValueError for weights that do not fit.
    """
    source, size = clip_source(config), image_size(config)
    check_tag(config)
    state, quick_gelu = _read(source)
    architecture = source.architecture | ({"quick_gelu": True} if quick_gelu else {})
    statistics = _statistics(source)
    with torch.random.fork_rng(devices=[], enabled=state is None):
        if state is None:
            torch.manual_seed(config.seed)
        clip = _build(architecture, statistics)
    if state is not None:
        _fill(clip, state, source)
    return (clip if size == source.native_size else _resized(clip, architecture, statistics, size)).eval()


def tokenizer(config: Config) -> Callable[..., torch.Tensor]:
    """The tokenizer of the config's CLIP; a JSON architecture may have byte-pair merges of its own beside it.

    A process keeps it, because 49,000 merges take a tenth of a second to read, and every model is built with it.
    """
    source = clip_source(config)
    merges = source.merges and (str(source.merges), source.merges.stat().st_mtime_ns)
    tokenizer_folder = source.tokenizer and str(source.tokenizer)
    key = json.dumps([source.name, bool(source.folder), source.architecture, merges, tokenizer_folder], sort_keys=True)
    if key not in _TOKENIZERS:
        _TOKENIZERS[key] = _tokenizer(source)
    return _TOKENIZERS[key]


def _tokenizer(source: ClipSource) -> Callable[..., torch.Tensor]:
    if not (source.folder or source.json_file):
        return open_clip.get_tokenizer(source.name)
    text = source.architecture["text_cfg"]
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = text.get("tokenizer_kwargs", {})
    if source.tokenizer is not None:
        return open_clip.tokenizer.HFTokenizer(
            str(source.tokenizer), context_length=length, trust_remote_code=False, local_files_only=True, **options
        )
    merges = {"bpe_path": str(source.merges)} if source.merges else {}
    return open_clip.SimpleTokenizer(context_length=length, **options, **merges)


def pixel_statistics(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (3, 1, 1) by which pixels in [0, 1] are normalised for a CLIP."""
    pixels = open_clip.get_model_preprocess_cfg(clip)
    mean = torch.tensor(pixels.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = torch.tensor(pixels.get("std") or open_clip.OPENAI_DATASET_STD)
    return mean.view(3, 1, 1), std.view(3, 1, 1)


def check_tag(config: Config) -> None:
    """Raises ValueError where `emovclip.weights` is a pretrained tag that open_clip does not have for this CLIP.

    `clip_source` takes any tag, because only open_clip knows them; so call this before long work begins.
    """
    source = clip_source(config)
    name, tag = source.name, source.weights
    if not isinstance(tag, str):
        return
    plain, tags = name.removesuffix("-quickgelu"), open_clip.list_pretrained_tags_by_model(name)
    about = open_clip.get_pretrained_cfg(name, tag) or open_clip.get_pretrained_cfg(plain, tag)
    if about and source.architecture.get("quick_gelu") and not about.get("quick_gelu"):
        raise ValueError(
            f"emovclip.weights: found {tag!r}, which was not trained with the QuickGELU of emovclip.clip={name}, "
            f"expected {f'emovclip.clip={plain}' if plain != name else 'an architecture without it'}"
        )
    if tag not in tags:
        raise ValueError(
            f"emovclip.weights: found {tag!r}, expected a file or a pretrained tag of {name}: "
            f"{', '.join(tags) or 'none'}"
        )


def tensor_digest(clip: Clip) -> torch.Tensor:
    """A digest of 16 bytes (uint8) of a CLIP's tensors (names, shapes, values in float32) and its QuickGELU modules.

    It is the same whatever type the weights are stored in and whatever size the images have. Interpolated positions
    differ in their last bit between machines, so the table from which they were interpolated counts in their place.
    """
    state = clip.state_dict() | getattr(clip, "before_resizing", {})
    hashed = hashlib.blake2b(digest_size=16)
    for name, module in clip.named_modules():
        if isinstance(module, open_clip.transformer.QuickGELU):
            hashed.update(f"{name};".encode())
    for name, value in sorted(state.items()):
        hashed.update(f"{name}{tuple(value.shape)};".encode())
        hashed.update(value.detach().to("cpu", torch.float32).contiguous().view(-1).numpy())
    return torch.frombuffer(bytearray(hashed.digest()), dtype=torch.uint8)


def _read(source: ClipSource) -> tuple[State | None, bool]:
    """The published weights (None: random), and whether they were trained with QuickGELU.

    May download the file of a pretrained tag.
    """
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
    if source.folder:
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


def _statistics(source: ClipSource) -> dict[str, Any]:
    """`mean` and `std` of pixels that a folder or a pretrained tag gives; open_clip's defaults stand for the others.

    A file of a named architecture gets those of its tags, where all tags have the same.
    """
    if source.folder:
        return source.statistics
    names = (
        [source.weights] if isinstance(source.weights, str) else open_clip.list_pretrained_tags_by_model(source.name)
    )
    tags = [open_clip.get_pretrained_cfg(source.name, name) for name in names]
    return {
        key: tags[0][key]
        for key in ("mean", "std")
        if tags and key in tags[0] and len({str(t[key]) for t in tags}) == 1
    }


def _build(architecture: dict[str, Any], statistics: dict[str, Any]) -> Clip:
    """A fresh model of an open_clip config."""
    arguments = deepcopy(architecture)
    arguments["vision_cfg"]["timm_model_pretrained"] = False  # weights are loaded as a whole, and from files alone
    clip = (open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP)(**arguments)
    default = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    open_clip.set_model_preprocess_cfg(clip, {"size": clip.visual.image_size, **default, **statistics})
    return clip


def _fill(clip: Clip, state: State, source: ClipSource) -> None:
    """Put published weights into a fresh model. Raises ValueError for the weights of another architecture."""
    state = open_clip.model.convert_to_custom_text_state_dict(state) if hasattr(clip, "text") else dict(state)
    expected = clip.state_dict()
    if "logit_scale" in state and state["logit_scale"].numel() == 1:
        state["logit_scale"] = state["logit_scale"].view(
            expected["logit_scale"].shape
        )  # published as a scalar or a vector
    wrong = [f"no {name}" for name in expected if name not in state]
    wrong += [f"{name}, which it has not" for name in state if name not in expected]
    wrong += [
        f"{name} of shape {tuple(state[name].shape)} where it has {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{source.weights}: found weights that do not fit {source.name} ({'; '.join(wrong[:3])}), expected those "
            "of that architecture: name theirs as emovclip.clip (and another size of images as media.image_size)"
        )
    clip.load_state_dict(state)


def _resized(clip: Clip, architecture: dict[str, Any], statistics: dict[str, Any], size: int) -> Clip:
    """The same CLIP for square images of another size, with positions interpolated by open_clip."""
    vision = architecture["vision_cfg"] | {"image_size": size}
    with torch.random.fork_rng(devices=[]):  # so that what is drawn later does not depend on the size
        resized = _build(architecture | {"vision_cfg": vision}, statistics)
    state = clip.state_dict()
    before_resizing = {_POSITIONS: state[_POSITIONS].clone()}
    open_clip.model.resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    resized.before_resizing = before_resizing  # for `tensor_digest`
    return resized
