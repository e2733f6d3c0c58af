"""Checkpoints written and loaded: models to and from the folders that `checkpoint_files` describes."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save

from emo_ray import durable, store
from emo_ray.config import Config, dump, override
from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.job_settings import Tracking
from emo_ray.config.model_settings import MODALITIES
from emo_ray.models.checkpoint_files import (
    CARD,
    CONFIG,
    LABELS,
    WEIGHTS,
    digests,
    fusion_start_folder,
    not_weights,
    read_bytes,
    read_config,
    start_folder,
)
from emo_ray.models.classical_head import ClassicalHead, from_state
from emo_ray.models.fusion import FusionHead
from emo_ray.models.head_average import Head, states, together
from emo_ray.models.trainable_state import load_trained, not_finite

if TYPE_CHECKING:
    from emo_ray.models.emovclip import EmoVCLIP

TIME_TABLES = ("time_TD", "local_TD")  # endings of the names of EmoVCLIP's tables with a row for each frame


def write(folder: Path, state: Mapping[str, torch.Tensor], config: Config, labels: Sequence[str], card: str) -> None:
    """Write a trained state, and what is needed to use it, into an existing folder.

    `checkpoint_files.digests` belongs into the folder's meta; where it has a meta already, it is put there. Raises
    ValueError for values that are not finite.
    """
    _check_finite(state, folder / WEIGHTS)
    durable.write_bytes(folder / WEIGHTS, save({name: value.contiguous() for name, value in state.items()}))
    shareable = config.model_copy(update={"tracking": Tracking()})  # a tracking URI may hold credentials
    durable.write_text(folder / CONFIG, dump(shareable))
    durable.write_text(folder / LABELS, json.dumps(list(labels), ensure_ascii=False))
    durable.write_text(folder / CARD, card)
    if store.is_complete(folder):
        meta = store.read_meta(folder) | digests(folder)
        store.write_meta(folder, meta)


def load_emovclip(folder: Path, frames: int | None = None) -> "EmoVCLIP":
    """The EmoVCLIP of a checkpoint folder, on the frozen CLIP that its config names, in evaluation mode.

    `frames` is the number of frames of a clip, by default that of the training clips. Raises ValueError where the CLIP
    is not the one it was trained on.
    """
    config, labels = read_config(folder)
    config = override(config, {"media.frames": frames or config.media.frames})
    model = _build_emovclip(config, labels)
    _load_weights(model, folder, config.media.frames)
    return model.eval()


def fresh_emovclip(config: Config, labels: Sequence[str]) -> "EmoVCLIP":
    """The EmoVCLIP that training starts with: new prompts, or those of `emovclip.start_from`."""
    folder = start_folder(config, labels)
    model = _build_emovclip(config, labels)
    if folder is not None:
        _load_weights(model, folder, config.media.frames)
    return model


def resampled(state: Mapping[str, torch.Tensor], frames: int) -> dict[str, torch.Tensor]:
    """A trained state whose tables over time have `frames` rows.

    Rows are interpolated linearly at the middles of equal stretches, where `media.spread` takes frames.
    """
    return {
        name: _over_time(value, frames) if name.endswith(TIME_TABLES) and len(value) != frames else value
        for name, value in state.items()
    }


def load_fusion(folder: Path) -> Head:
    """The fusion head of a checkpoint folder, or its average of heads, in evaluation mode.

    Raises ValueError for a folder without a head.
    """
    config, labels = read_config(folder)
    if config.fusion.is_classical:
        return _load_classical(folder, labels).eval()
    return together(_load_heads(folder, config.fusion, labels)).eval()


def fresh_fusion(
    config: Config, scaling: Mapping[str, torch.Tensor], labels: Sequence[str], count: int = 1,
    feature_rates: Mapping[str, float] | None = None,
) -> Head:  # fmt: skip
    """The head that training starts with, or an average of `count` of them: see `fresh_heads`."""
    return together(fresh_heads(config, scaling, labels, count, feature_rates))


def fresh_heads(
    config: Config, scaling: Mapping[str, torch.Tensor], labels: Sequence[str], count: int,
    feature_rates: Mapping[str, float] | None = None,
) -> list[FusionHead]:  # fmt: skip
    """The heads that training starts with: `count` new ones with this scaling, or those of `fusion.start_from`.

    Both drop features at these rates. The latter keep their own scaling, and where they are fewer, some start alike.
    Raises ValueError where they are for other classes or shapes, or lack a modality of the training clips.
    """
    folder = fusion_start_folder(config, labels)
    if folder is None:
        return [FusionHead(config.fusion, scaling, len(labels), feature_rates) for _ in range(count)]
    heads = [head for _, head in zip(range(count), cycle(_load_heads(folder, config.fusion, labels)), strict=False)]
    head = heads[0]
    if missing := sorted(set(scaling) - set(head.project)):
        raise ValueError(
            f"fusion.start_from: found no {' and '.join(missing)} in the head in {folder}, expected every modality "
            "that training clips have: start from nothing"
        )
    copies = [deepcopy(head) for head in heads]
    for copy in copies:
        copy.feature_rates = dict(feature_rates or {})
    return copies


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained state in a checkpoint folder.

    Raises ValueError for a file that is cut, damaged or of something else, and for values that are not finite.
    """
    try:
        state = load(read_bytes(folder, WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise not_weights(folder / WEIGHTS, error) from None
    _check_finite(state, folder / WEIGHTS)
    return state


def _check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    if wrong := not_finite(state):
        raise ValueError(
            f"{path}: found values that are not finite in {len(wrong)} tensors ({', '.join(wrong[:3])}), expected "
            "numbers: train again, with a lower learning rate if training diverged"
        )


def _load_heads(folder: Path, settings: Fusion, labels: Sequence[str]) -> list[FusionHead]:
    return [_load_head(folder, state, settings, labels) for state in states(read_weights(folder))]


def _load_classical(folder: Path, labels: Sequence[str]) -> ClassicalHead:
    state = read_weights(folder)
    try:
        head = from_state(state, _scaling(folder, state))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    if len(head.log_frequency_K) != len(labels):
        raise ValueError(f"{folder}: found a head for {len(head.log_frequency_K)} classes, expected {len(labels)}")
    return head


def _scaling(folder: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How features are standardised. Raises ValueError where nothing says so."""
    scaling = {name: state[f"scaling_{name}"] for name in MODALITIES if f"scaling_{name}" in state}
    if not scaling:
        raise ValueError(f"{folder}: found no fusion head, expected a whole model: the folder that jobs/train.py names")
    return scaling


def _load_head(
    folder: Path, state: Mapping[str, torch.Tensor], settings: Fusion, labels: Sequence[str]
) -> FusionHead:  # fmt: skip
    scaling = _scaling(folder, state)
    wrong = [f"scaling_{name}" for name, value in scaling.items() if value.ndim != 2 or len(value) != 2]
    if state.get("absent_MH", torch.empty(0)).shape != (len(MODALITIES), settings.hidden):
        wrong.append("absent_MH")  # before a head of any size that a config asks for is made
    if wrong:
        raise ValueError(
            f"{folder}: found weights that do not fit the model ({', '.join(wrong)}), expected those of the same config"
        )
    head = FusionHead(settings, scaling, len(labels))
    try:
        load_trained(head, state)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return head


def _over_time(table_TD: torch.Tensor, frames: int) -> torch.Tensor:
    return F.interpolate(table_TD.T[None], size=frames, mode="linear", align_corners=False)[0].T.contiguous()


def _build_emovclip(config: Config, labels: Sequence[str]) -> "EmoVCLIP":
    from emo_ray.models import emovclip  # open_clip takes seconds to import, and a head needs none of it

    return emovclip.build(config, labels)


def _load_weights(model: "EmoVCLIP", folder: Path, frames: int) -> None:
    """Put a checkpoint's weights into a model for clips of `frames` frames."""
    try:
        load_trained(model, resampled(read_weights(folder), frames))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
