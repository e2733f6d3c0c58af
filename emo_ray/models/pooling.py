"""What the frozen transformers encoders share: averaging layers and time, and knowing where weights came from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from emo_ray import store


def mean_of_layers(states: Sequence[torch.Tensor], layers: Sequence[int]) -> torch.Tensor:
    """The mean of the chosen hidden states (B, L, D). Raises ValueError where the model has no such layer."""
    if not all(-len(states) <= layer < len(states) for layer in layers):
        raise ValueError(f"found layers {list(layers)}, expected indices of {len(states)} hidden states")
    return torch.stack([states[layer].float() for layer in layers]).mean(dim=0)


def masked_mean(values_BLD: torch.Tensor, valid_BL: torch.Tensor) -> torch.Tensor:
    """The mean over valid positions, (B, D)."""
    weights_BL1 = valid_BL.to(values_BLD.dtype).unsqueeze(-1)
    return (values_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1)


def source_digest(name: str, revision: str | None) -> str:
    """A folder's content, or the commit that a hub name stands for. Raises ValueError where neither is to be had."""
    if Path(name).is_dir():
        return store.digest_path(Path(name))
    try:
        path = hf_hub_download(name, "config.json", revision=revision)  # in the cache: snapshots/<commit>/config.json
    except (OSError, ValueError) as error:
        raise ValueError(
            f"found no model {name!r}, expected a local folder, a name on the model hub that this machine can reach, "
            f"or an offline encoder (audio.encoder=functionals, text.encoder=ngrams): {str(error).splitlines()[0]}"
        ) from error
    return store.digest(name, Path(path).parent.name)
