"""`Batch`, what every model and loop takes, and how rows become one.

Legend: B clip, T frame, C H W image, S sample, L token, D feature, K class, M modality (video, audio, text).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from emo_ray.config.model_settings import MODALITIES


@dataclass(frozen=True)
class Batch:
    """B clips. Absent is `present_BM` false, never a zero vector that looks like data: absent rows hold anything."""

    clip_ids: tuple[str, ...]
    present_BM: torch.Tensor  # bool
    frames_BTCHW: torch.Tensor | None = None  # uint8
    audio_BS: torch.Tensor | None = None  # float32 in [-1, 1) at 16 kHz, zero-padded
    audio_lengths_B: torch.Tensor | None = None  # int64, samples
    texts: tuple[str, ...] | None = None
    readings: tuple[str | None, ...] | None = None  # a stronger model's words on each text; None where it has none
    features: Mapping[str, torch.Tensor] | None = None  # modality -> float32 (B, D of that modality)
    label_B: torch.Tensor | None = None  # int64
    # Both or none, for training clips of which some are pseudo-labelled.
    target_BK: torch.Tensor | None = None  # float32, probabilities to train towards
    weight_B: torch.Tensor | None = None  # float32, how much each clip counts

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on a device."""

        def moved(value):
            if isinstance(value, torch.Tensor):
                return value.to(device, non_blocking=True)
            return {k: moved(v) for k, v in value.items()} if isinstance(value, Mapping) else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})

    def rows(self, index_B: torch.Tensor) -> "Batch":
        """The clips of an index (int64) or a mask (bool), in the index' order."""
        chosen = index_B.nonzero().flatten() if index_B.dtype == torch.bool else index_B

        def taken(value):
            if isinstance(value, torch.Tensor):
                return value[chosen]
            if isinstance(value, Mapping):
                return {k: taken(v) for k, v in value.items()}
            return value and tuple(value[i] for i in chosen.tolist())

        return Batch(**{field.name: taken(getattr(self, field.name)) for field in fields(self)})


class Output(NamedTuple):
    """What a trainable model returns."""

    logits_BK: torch.Tensor
    features_BD: torch.Tensor


def from_shards(table: pa.Table, modalities: Sequence[str], labels: Mapping[str, int] | None = None) -> Batch:
    """A batch of shard rows with the raw input of `modalities`, for rows that have all of them.

    Raises ValueError where a row lacks one: callers choose rows by status first.
    """
    statuses = np.array([table[f"{name}_status"].to_numpy() == "ok" for name in MODALITIES]).T
    for m, name in enumerate(MODALITIES):
        if name in modalities and not statuses[:, m].all():
            absent = table["clip_id"][int(np.argmin(statuses[:, m]))].as_py()
            raise ValueError(f"clip {absent!r}: found no {name}, expected rows filtered by {name}_status")
    ids = tuple(table["clip_id"].to_pylist())
    raw = {"clip_ids": ids, "present_BM": torch.from_numpy(statuses)}
    if "video" in modalities:
        raw["frames_BTCHW"] = _frames(table["frames"].to_pylist())
    if "audio" in modalities:
        raw["audio_BS"], raw["audio_lengths_B"] = pad_audio(table["audio"].to_pylist())
    if "text" in modalities:
        raw["texts"] = tuple(table["text"].to_pylist())
        raw["readings"] = tuple(table["reading"].to_pylist()) if "reading" in table.column_names else None
    if labels is not None:
        raw["label_B"] = torch.tensor([labels[name] for name in ids])
    return Batch(**raw)


def from_features(table: pa.Table) -> Batch:
    """A batch of rows of `clip_id`, optional `label`, and `<modality>` (fixed-size list) with `has_<modality>`."""
    present, features = [], {}
    for name in MODALITIES:
        if name not in table.column_names:  # no encoder gave this modality: nobody has it
            present.append(np.zeros(len(table), bool))
            continue
        column = table[name].combine_chunks()
        present.append(table[f"has_{name}"].to_numpy())
        values = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        # Absent rows hold NaN, so that a forgotten mask shows; here the mask exists, and zeros are safe to compute on.
        features[name] = torch.from_numpy(np.where(present[-1][:, None], values, np.float32(0)))
    label_B = torch.from_numpy(table["label"].to_numpy().copy()) if "label" in table.column_names else None
    present_BM = torch.from_numpy(np.stack(present, axis=1))
    return Batch(tuple(table["clip_id"].to_pylist()), present_BM, features=features, label_B=label_B)


def pad_audio(samples: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """int16 bytes to float32 audio_BS in [-1, 1) and its lengths."""
    arrays = [np.frombuffer(data, "<i2") for data in samples]
    lengths = [len(a) for a in arrays]
    audio_BS = np.zeros((len(arrays), max(lengths)), np.float32)
    for row, array in zip(audio_BS, arrays, strict=True):
        row[: len(array)] = array / 32768.0
    return torch.from_numpy(audio_BS), torch.tensor(lengths)


def _frames(rows: Sequence[Sequence[bytes]]) -> torch.Tensor:
    """uint8 frames_BTCHW of B rows of T JPEGs. A third of Pillow's time, and other threads run meanwhile."""
    from torchvision.io import ImageReadMode, decode_jpeg  # a second to import, which not every process has to spend

    frames_BTCHW = None
    for i, jpegs in enumerate(rows):
        buffers = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
        frames = decode_jpeg(buffers, ImageReadMode.RGB)
        if frames_BTCHW is None:
            frames_BTCHW = torch.empty((len(rows), len(frames), *frames[0].shape), dtype=torch.uint8)
        torch.stack(frames, out=frames_BTCHW[i])  # into its place: a batch is large, and copied once
    return frames_BTCHW
