"""The frozen CLIP under EmoVCLIP: which open_clip architecture, which weights, which tokenizer."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch import nn

from emo_ray import store
from emo_ray.config import RECIPES, Config

VERSION = 1  # part of the feature digests: raise it when the same weights and prompts give other values


def load_clip(config: Config) -> nn.Module:
    """The open_clip model of `emovclip.clip` with `emovclip.weights`: a pretrained tag, a local file, or None.

    None is random weights that only the architecture and `config.seed` decide.
    """
    name, weights = _architecture(config.emovclip.clip), _weights(config.emovclip.weights)
    if (
        weights is not None
        and not Path(weights).exists()
        and weights not in open_clip.list_pretrained_tags_by_model(name)
    ):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"emovclip.weights: found {weights!r}, expected a file or a pretrained tag of {name}: {tags}")
    tag = open_clip.get_pretrained_cfg(name, weights) if weights and not Path(weights).exists() else {}
    with torch.random.fork_rng(devices=[], enabled=weights is None):
        if weights is None:
            torch.manual_seed(config.seed)
        # OpenAI's weights want QuickGELU; with the wrong activation the model is silently poor.
        return open_clip.create_model(name, pretrained=weights, force_quick_gelu=bool(tag.get("quick_gelu"))).eval()


def tokenizer(config: Config) -> Callable[..., torch.Tensor]:
    """The tokenizer of the config's CLIP; a JSON architecture may have byte-pair merges of its own beside it."""
    merges = _merges(config)
    return open_clip.get_tokenizer(_architecture(config.emovclip.clip), **({"bpe_path": str(merges)} if merges else {}))


def pixel_statistics(clip: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (3, 1, 1) by which the CLIP wants pixels in [0, 1] normalised."""
    own = open_clip.get_model_preprocess_cfg(clip)
    mean, std = own.get("mean") or open_clip.OPENAI_DATASET_MEAN, own.get("std") or open_clip.OPENAI_DATASET_STD
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


def image_size(config: Config) -> int:
    """The side in pixels of the square images that the CLIP of this config expects, without building it."""
    size = open_clip.get_model_config(_architecture(config.emovclip.clip))["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"emovclip.clip={config.emovclip.clip}: found image size {size}, expected a square")
    side = sides.pop()
    if config.media.image_size not in (None, side):
        raise ValueError(
            f"media.image_size: found {config.media.image_size}, expected {side}, the size of {config.emovclip.clip}"
        )
    return side


def frozen_digest(config: Config) -> str:
    """Digest of the frozen CLIP: architecture and weights (by content for files, by tag or seed otherwise)."""
    name, weights = _architecture(config.emovclip.clip), _weights(config.emovclip.weights)
    source = ("random", config.seed) if weights is None else weights
    if weights is not None and Path(weights).exists():
        source = store.digest_path(Path(weights))
    merges = _merges(config)
    return store.digest(open_clip.get_model_config(name), source, merges and store.digest_path(merges), VERSION)


def _architecture(name: str) -> str:
    """The name under which open_clip knows the architecture, registering a JSON config first."""
    if name.endswith(".json"):
        path = _shipped(name)
        if not path.is_file():
            raise ValueError(f"emovclip.clip: found no file {name}, expected an open_clip model config")
        open_clip.add_model_config(path)
        name = path.stem
    if open_clip.get_model_config(name) is None:
        raise ValueError(f"emovclip.clip: found {name!r}, expected one of {', '.join(open_clip.list_models())}")
    return name


def _merges(config: Config) -> Path | None:
    """The byte-pair merges beside a JSON architecture, where there are any."""
    if not config.emovclip.clip.endswith(".json"):
        return None
    path = _shipped(config.emovclip.clip).with_suffix(".bpe.gz")
    return path if path.is_file() else None


def _weights(weights: str | None) -> str | None:
    """A pretrained tag as it stands, a file as its path."""
    return str(_shipped(weights)) if weights and _shipped(weights).exists() else weights


def _shipped(name: str) -> Path:
    """The path of a file of the user's, or of one that lies beside our recipes."""
    return Path(name) if Path(name).exists() else RECIPES / name
