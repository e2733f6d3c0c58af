"""Which towers fit an EmoVCLIP, told from open_clip's model config alone, and why others do not (docs/towers.md)."""

import re
from typing import Any

OWN, OWN_MEAN = "open_clip's ViT", "open_clip's ViT, mean of patches"
TIMM, TIMM_MAP, EVA = "timm's ViT", "timm's ViT, attention pool", "timm's Eva"

# Width and blocks of timm's towers, by a word of their names.
_SHAPES = {
    **{"tiny": (192, 12), "small": (384, 12), "medium": (512, 12), "base": (768, 12), "large": (1024, 24)},
    **{"so400m": (1152, 27), "giantopt": (1536, 40), "giant": (1408, 40), "gigantic": (1536, 50)},
    "enormous": (1792, 64),
}


def vision_shape(vision: dict[str, Any]) -> tuple[int, int, int]:
    """Width, number of blocks and side of the patches of a vision tower, for estimates: timm's as their names say."""
    name = vision.get("timm_model_name")
    if not name:
        return vision.get("width", 768), vision.get("layers", 12), vision.get("patch_size", 16)
    width, layers = next((shape for word, shape in _SHAPES.items() if word in name.split("_")), _SHAPES["base"])
    patch = re.search(r"patch(\d+)", name)
    return width, layers, int(patch[1]) if patch else 16


def vision_family(vision: dict[str, Any]) -> str:
    """The family of a vision tower. Raises ValueError, with the reason, for one that cannot be prompted."""
    timm_name, pool = vision.get("timm_model_name"), vision.get("timm_pool", "avg")
    if timm_name:
        if "relpos" in timm_name:
            raise ValueError(f"{timm_name}, whose attention takes positions between rows: a prompt has none")
        if not timm_name.startswith(("vit_", "eva")):
            raise ValueError(
                f"{timm_name}, of convolutions or windows: no attention over all rows that prompts could join"
            )
        if timm_name.startswith(("eva", "vit_pe_")):
            return EVA
        return TIMM_MAP if pool == "map" else TIMM
    if not isinstance(vision.get("layers", 12), int):
        raise ValueError("a ResNet, of convolutions: no attention over all rows that prompts could join")
    pool = vision.get("pool_type", "tok")
    if vision.get("attentional_pool") or pool not in ("tok", "avg"):
        raise ValueError(
            "attention over learned queries as its pooling, which gives no embedding of an image by itself"
        )
    return OWN if pool == "tok" else OWN_MEAN


def text_family(architecture: dict[str, Any]) -> str:
    """How a text tower is read. Raises ValueError, with the reason, for one that takes no class names with contexts."""
    text = architecture["text_cfg"]
    if text.get("hf_model_name"):
        raise ValueError(f"{text['hf_model_name']}, a text tower of transformers, which takes no context vectors")
    if architecture.get("multimodal_cfg") or text.get("embed_cls"):
        raise ValueError("a text tower with a CLS token at its end, behind the padding: no place for contexts")
    pool = text.get("pool_type", "argmax")
    if pool not in ("argmax", "eos", "last"):
        raise ValueError(f"a text tower with pooling {pool!r}, expected argmax, eos or last")
    return f"{pool}{', not causal' if text.get('no_causal_mask') else ''}"
