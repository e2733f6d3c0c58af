"""`Batch`, what every model and loop takes, and how rows become one.

There is one kind of batch for each kind of input: encoders take the raw input of their modality (`VideoBatch`,
`AudioBatch`, `TextBatch`), the fusion head takes features (`FeatureBatch`).

Legend: B clip, T frame, C H W image, S sample, L token, D feature, K class, M modality (video, audio, text).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import torch

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.dialogues import Windows
from emo_ray.data.frames import Decode, decoded
from emo_ray.data.status import are_ok

Choose = Callable[[str, int], Sequence[int]]  # clip_id, number of frames stored -> places of those that are seen
UNLABELLED = -(10**9)  # as a class index it fails in every loss, metric and table


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """What training clips are trained towards, where some of them are pseudo-labelled."""

    target_BK: torch.Tensor  # float32, probabilities
    weight_B: torch.Tensor  # float32, how much each clip counts


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B clips. Absent is `present_BM` false, never a zero vector that looks like data: absent rows hold anything."""

    clip_ids: tuple[str, ...]
    present_BM: torch.Tensor  # bool
    label_B: torch.Tensor  # int64; UNLABELLED for a clip without a label
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on a device."""
        return _mapped(self, lambda tensor: tensor.to(device, non_blocking=True), lambda values: values)

    def rows(self, index_B: torch.Tensor) -> Self:
        """The clips of an index (int64) or a mask (bool), in the index' order."""
        chosen = index_B.nonzero().flatten() if index_B.dtype == torch.bool else index_B
        places = chosen.tolist()
        return _mapped(self, lambda tensor: tensor[chosen], lambda values: tuple(values[i] for i in places))

    def showing(self, shown_M: torch.Tensor) -> Self:
        """The same clips with all modalities hidden but those of a mask (bool)."""
        return replace(self, present_BM=self.present_BM & shown_M)


BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class VideoBatch(Batch):
    """Clips with video, as their frames."""

    frames_BTCHW: torch.Tensor  # uint8


@dataclass(frozen=True, kw_only=True)
class AudioBatch(Batch):
    """Clips with sound, as their samples."""

    audio_BS: torch.Tensor  # float32 in [-1, 1) at 16 kHz, zero-padded
    audio_lengths_B: torch.Tensor  # int64, samples


@dataclass(frozen=True, kw_only=True)
class TextBatch(Batch):
    """Clips with a transcript."""

    texts: tuple[str, ...]
    readings: tuple[str | None, ...]  # a stronger model's words on each text; None where it has none


@dataclass(frozen=True, kw_only=True)
class FeatureBatch(Batch):
    """Clips as the features that encoders have made of them."""

    features: Mapping[str, torch.Tensor]  # modality -> float32 (B, D of that modality)
    speakers: tuple[str | None, ...] | None = None  # None for a clip whose speaker is not known, or for all of them
    context: "Context | None" = None  # None where nobody has looked for neighbours

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on a device, and of clips that are neighbours those that it needs."""
        moved = super(FeatureBatch, replace(self, context=None)).to(device)
        return moved if self.context is None else replace(moved, context=self.context.to(device))

    def rows(self, index_B: torch.Tensor) -> Self:
        """The clips of an index (int64) or a mask (bool), in the index' order, each with its neighbours."""
        chosen = super(FeatureBatch, replace(self, context=None)).rows(index_B)
        return chosen if self.context is None else replace(chosen, context=self.context.rows(index_B))

    def places_with(self, names: Sequence[str]) -> np.ndarray:
        """The places of the clips that have features of all these modalities, int64."""
        present_BM = self.present_BM.numpy()[:, [MODALITIES.index(name) for name in names]]
        return np.flatnonzero(present_BM.all(axis=1) & all(name in self.features for name in names))

    def showing(self, shown_M: torch.Tensor) -> Self:
        """The same clips and neighbours with all modalities hidden but those of a mask (bool)."""
        shown = super().showing(shown_M)
        if self.context is None:
            return shown
        return replace(shown, context=replace(self.context, clips=self.context.clips.showing(shown_M)))


@dataclass(frozen=True, kw_only=True)
class JointBatch(FeatureBatch, VideoBatch):
    """Clips with features, and with frames of which features of video are made anew.

    Clips without video have black frames.
    """


@dataclass(frozen=True, kw_only=True)
class Context:
    """The neighbours of B clips in their dialogues: N places around each clip, `offsets` away from it.

    They are rows of a batch that all batches of a corpus share, so that choosing clips copies no features.
    """

    clips: FeatureBatch  # at least one
    offsets: tuple[int, ...]  # N, such as (-2, -1, 1): two before and one after
    place_BN: torch.Tensor  # int64, the row of `clips`; -1 where there is no neighbour
    speaker_BN: torch.Tensor  # int64, an index of dialogues.SPEAKERS

    def rows(self, index_B: torch.Tensor) -> "Context":
        """The neighbours of the clips of an index or a mask."""
        return replace(self, place_BN=self.place_BN[index_B], speaker_BN=self.speaker_BN[index_B])

    def to(self, device: torch.device | str) -> "Context":
        """The same neighbours with their tensors on a device; another device gets only the rows that it needs."""
        if self.place_BN.device == torch.device(device):
            return self
        rows, place_BN = self.place_BN.clamp(min=0).unique(return_inverse=True)
        place_BN = torch.where(self.place_BN < 0, -1, place_BN)
        return Context(
            clips=self.clips.rows(rows).to(device),
            offsets=self.offsets,
            place_BN=place_BN.to(device, non_blocking=True),
            speaker_BN=self.speaker_BN.to(device, non_blocking=True),
        )

    def window(self, offsets: Sequence[int]) -> "Context":
        """The neighbours at some of the places. Raises ValueError where a place was not looked at."""
        if missing := set(offsets) - set(self.offsets):
            raise ValueError(f"found neighbours at {self.offsets}, expected those at {sorted(missing)} too")
        columns = [self.offsets.index(offset) for offset in offsets]
        return replace(
            self,
            offsets=tuple(offsets),
            place_BN=self.place_BN[:, columns],
            speaker_BN=self.speaker_BN[:, columns],
        )


class Output(NamedTuple):
    """What a trainable model returns."""

    logits_BK: torch.Tensor
    features_BD: torch.Tensor
    each: tuple["Output", ...] = ()  # in training, of every head of an average

    def probabilities_BK(self, clip_ids: Sequence[str]) -> torch.Tensor:
        """The softmax of the logits, float32. Raises ValueError where a logit is NaN or infinite."""
        finite_B = self.logits_BK.isfinite().all(dim=-1)
        if not finite_B.all():
            clip_id = clip_ids[int((~finite_B).nonzero()[0])]
            raise ValueError(
                f"clip {clip_id!r}: found a probability that is not finite ({int((~finite_B).sum())} of "
                f"{len(finite_B)} clips), expected numbers: the weights of the model overflow on these features, so "
                "train it again with a lower learning rate"
            )
        return self.logits_BK.float().softmax(dim=-1)


def unlabelled(clips: int) -> torch.Tensor:
    """The label_B of clips without labels."""
    return torch.full((clips,), UNLABELLED)


def video_from_shards(
    table: pa.Table,
    labels: Mapping[str, int] | None = None,
    choose: Choose | None = None,
    decode: Decode = decoded,
) -> VideoBatch:
    """Shard rows to frames, all or those that are chosen.

    Raises ValueError where a row has no video: callers choose rows by status first.
    """
    clips = _clips(table, "video", labels)
    rows = table["frames"].to_pylist()
    if choose is not None:
        chosen = [choose(clip_id, len(row)) for clip_id, row in zip(clips["clip_ids"], rows, strict=True)]
        rows = [[row[place] for place in places] for places, row in zip(chosen, rows, strict=True)]
    return VideoBatch(**clips, frames_BTCHW=_frames(rows, decode))


def audio_from_shards(table: pa.Table, labels: Mapping[str, int] | None = None) -> AudioBatch:
    """Shard rows to samples. Raises ValueError where a row has no sound: callers choose rows by status first."""
    audio_BS, audio_lengths_B = pad_audio(table["audio"].to_pylist())
    return AudioBatch(**_clips(table, "audio", labels), audio_BS=audio_BS, audio_lengths_B=audio_lengths_B)


def text_from_shards(table: pa.Table, labels: Mapping[str, int] | None = None) -> TextBatch:
    """Shard rows to transcripts, and to readings where the table has a column of that name.

    Raises ValueError where a row has no text: callers choose rows by status first.
    """
    has_readings = "reading" in table.column_names
    readings = table["reading"].to_pylist() if has_readings else [None] * len(table)
    texts = tuple(table["text"].to_pylist())
    return TextBatch(**_clips(table, "text", labels), texts=texts, readings=tuple(readings))


FROM_SHARDS: Mapping[str, Callable[[pa.Table], Batch]] = {
    "video": video_from_shards,
    "audio": audio_from_shards,
    "text": text_from_shards,
}


def from_features(table: pa.Table) -> FeatureBatch:
    """A batch of rows of `clip_id`, optional `label` and `speaker`, and `<modality>` (fixed-size list) with
    `has_<modality>`.
    """
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
    has_labels = "label" in table.column_names
    return FeatureBatch(
        clip_ids=tuple(table["clip_id"].to_pylist()),
        present_BM=torch.from_numpy(np.stack(present, axis=1)),
        label_B=torch.from_numpy(table["label"].to_numpy().copy()) if has_labels else unlabelled(len(table)),
        features=features,
        speakers=tuple(table["speaker"].to_pylist()) if "speaker" in table.column_names else None,
    )


def with_context(batch: FeatureBatch, clips: FeatureBatch, windows: Windows) -> FeatureBatch:
    """The batch with the neighbours of its clips, as far as they are among `clips`."""
    row_of = {clip_id: row for row, clip_id in enumerate(clips.clip_ids)}
    place_BN = torch.full((len(batch), len(windows.offsets)), -1)
    speaker_BN = torch.zeros_like(place_BN)
    for b, clip_id in enumerate(batch.clip_ids):
        for n, neighbour in enumerate(windows.neighbours.get(clip_id, ())):
            if neighbour is not None and neighbour.clip_id in row_of:
                place_BN[b, n], speaker_BN[b, n] = row_of[neighbour.clip_id], neighbour.speaker
    clips = clips if len(clips) else batch  # which no place names then
    return replace(
        batch, context=Context(clips=clips, offsets=windows.offsets, place_BN=place_BN, speaker_BN=speaker_BN)
    )


def joint_from_shards(
    table: pa.Table, clips: FeatureBatch, choose: Choose, shape_TCHW: tuple[int, ...], decode: Decode = decoded
) -> JointBatch:
    """Shard rows to the frames that are chosen, beside the features that these clips have among `clips`."""
    row_of = {clip_id: row for row, clip_id in enumerate(clips.clip_ids)}
    chosen = clips.rows(torch.tensor([row_of[clip_id] for clip_id in table["clip_id"].to_pylist()]))
    has_video_B = chosen.present_BM[:, MODALITIES.index("video")]
    frames_BTCHW = torch.zeros((len(chosen), *shape_TCHW), dtype=torch.uint8)
    if has_video_B.any():
        shown = video_from_shards(table.filter(pa.array(has_video_B.numpy())), choose=choose, decode=decode)
        frames_BTCHW[has_video_B] = shown.frames_BTCHW
    values = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
    return JointBatch(**values, frames_BTCHW=frames_BTCHW)


def pad_audio(samples: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """int16 bytes to float32 audio_BS in [-1, 1) and its lengths."""
    arrays = [np.frombuffer(data, "<i2") for data in samples]
    lengths = [len(a) for a in arrays]
    audio_BS = np.zeros((len(arrays), max(lengths)), np.float32)
    for row, array in zip(audio_BS, arrays, strict=True):
        row[: len(array)] = array / 32768.0
    return torch.from_numpy(audio_BS), torch.tensor(lengths)


def _clips(table: pa.Table, modality: str, labels: Mapping[str, int] | None) -> dict[str, Any]:
    """The fields of `Batch` for shard rows that all have a modality; without `labels` no clip has one."""
    statuses = np.array([are_ok(table[f"{name}_status"]).to_numpy() for name in MODALITIES]).T
    has_B = statuses[:, MODALITIES.index(modality)]
    if not has_B.all():
        absent = table["clip_id"][int(np.argmin(has_B))].as_py()
        raise ValueError(f"clip {absent!r}: found no {modality}, expected rows filtered by {modality}_status")
    clip_ids = tuple(table["clip_id"].to_pylist())
    label_B = unlabelled(len(clip_ids)) if labels is None else torch.tensor([labels[name] for name in clip_ids])
    return {"clip_ids": clip_ids, "present_BM": torch.from_numpy(statuses), "label_B": label_B}


def _frames(rows: Sequence[Sequence[bytes]], decode: Decode) -> torch.Tensor:
    """uint8 frames_BTCHW of B rows of T JPEGs."""
    frames_BTCHW = None
    for i, jpegs in enumerate(rows):
        frames = decode(jpegs)
        if frames_BTCHW is None:
            frames_BTCHW = torch.empty((len(rows), len(frames), *frames[0].shape), dtype=torch.uint8)
        torch.stack(frames, out=frames_BTCHW[i])  # into its place: a batch is large, and copied once
    assert frames_BTCHW is not None, "callers give at least one row"
    return frames_BTCHW


def _mapped(value: Any, of_tensor: Callable[[torch.Tensor], torch.Tensor], of_tuple: Callable[[tuple], tuple]) -> Any:
    """The same dataclass or mapping with functions applied to the tensors and tuples in it, however deep they lie."""
    if isinstance(value, torch.Tensor):
        return of_tensor(value)
    if isinstance(value, tuple):
        return of_tuple(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, of_tensor, of_tuple) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _mapped(getattr(value, field.name), of_tensor, of_tuple) for field in fields(value)}
        return replace(value, **changes)
    return value
