"""A trained model in a plain process: `emo_ray.load(FOLDER).predict("clip.mp4")`."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch

from emo_ray.config import Config, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import face_columns, shards, transcripts
from emo_ray.data.batch import with_context
from emo_ray.data.dialogues import windows_of
from emo_ray.data.manifest import Clip
from emo_ray.data.shards import IdentifiedClip
from emo_ray.inference.classifier import (
    ALONE,
    TOGETHER,
    WITHOUT,
    ClipSpeakers,
    load_models,
    shown_probabilities,
    with_features,
)
from emo_ray.inference.encoders import of_checkpoint, recogniser
from emo_ray.inference.recognition import transcribe_rows
from emo_ray.inference.sources import PARTS, Source, clip_of, clips_of_folder, is_folder
from emo_ray.models import familiarity
from emo_ray.models.checkpoint_files import read_calibration, read_familiarity
from emo_ray.models.clip_source import image_size
from emo_ray.training import speaker_scaling
from emo_ray.training.calibration import calibrated

_CLIPS_AT_ONCE = 32  # whose frames and sound are in memory together
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_SETTINGS = ("media.", "transcribe.", "text.trust_remote_code", "store.root")  # that a caller may change
_KEYS = ", ".join(name + "*" * name.endswith(".") for name in _SETTINGS)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one clip. Probabilities are calibrated, by class, and sum to 1."""

    name: str  # the path, or for a clip of arrays and words its number in the list
    label: str | None  # the most likely class; None where no modality can be used
    probabilities: dict[str, float]  # of all that the clip has; empty where no modality can be used
    parts: dict[str, dict[str, float]]  # modality that can be used -> what it gives alone
    without: dict[str, dict[str, float]]  # modality that can be left out -> what the others give
    statuses: dict[str, str]  # modality -> ok, missing or corrupt, with the reason
    text: str | None  # the words: those given, or what the recogniser heard
    attention: list[float] | None  # the video model's over the frames, which sums to 1; None where it has none
    # Modality that is unlike the training clips -> its distance from them over the one that 99 % of them keep.
    unfamiliar: dict[str, float]

    @property
    def confidence(self) -> float | None:
        """The probability of the label."""
        return None if self.label is None else self.probabilities[self.label]


def load(
    source: str | Path, *, device: str = "cpu", revision: str | None = None, settings: Mapping[str, Any] | None = None
) -> "Model":
    """The model in a checkpoint folder, in a folder that jobs/export.py made, or of a name on the Hugging Face hub.

    `revision` is a commit, tag or branch of a hub name. `settings` are keys of `media` and `transcribe` that are to
    differ from the checkpoint's, `text.trust_remote_code`, and `store.root`, the store that the checkpoint lies in.
    Raises ValueError for what is no device or no model, and for a model that names files which lie elsewhere.
    """
    changes = dict(settings or {})
    if odd_keys := [key for key in changes if not key.startswith(_SETTINGS)]:
        raise ValueError(f"settings: found {', '.join(odd_keys)}, expected {_KEYS}")
    _check_device(device)
    path = _folder(source, revision)
    config = of_checkpoint(override(Config(), changes), path)
    return Model(override(config, changes | {"media.face.which": "main"}), path, device)


def _check_device(device: str) -> None:
    """Raises ValueError for what is no device, and for a GPU that this machine lacks."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"device: found {device!r}, expected cpu, cuda, or cuda:NUMBER")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if int(number or 0) >= count:
        raise ValueError(f"device: found {device!r}, and {count} GPUs on this machine; expected one of them: give cpu")


def _folder(source: str | Path, revision: str | None) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path.absolute()
    if not _HUB_NAME.fullmatch(str(source)) or path.exists():
        raise ValueError(f"{source}: found no folder, expected a model's folder, or a name on the hub (USER/MODEL)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), revision=revision))
    except (OSError, ValueError) as error:  # not there, not public, no network; its errors are of these two kinds
        raise ValueError(
            f"{source}: found no such folder, and no model on the hub ({str(error).splitlines()[0]:.200}), expected "
            "either: correct the name, see to the network, or download it beforehand"
        ) from error


class Model:
    """A model that predicts clips of any kind in this process. Encoders are loaded when the first clip needs them.

    Threads may share it: clips of one are decoded, by the decoder's process, while those of another are classified.
    """

    def __init__(self, config: Config, path: Path, device: str):
        self.config, self.path = config, path
        scaling = speaker_scaling.read(path)  # whoever speaks is not known: clips are standardised as strangers'
        speakers = None if scaling is None else ClipSpeakers(scaling, {}, "")
        self._models = load_models(config, path, device, speakers=speakers)
        self.labels = self._models.labels
        fitted = read_calibration(path)
        self.temperature = 1.0 if fitted is None else fitted["temperature"]
        self.distance_bounds = read_familiarity(path)  # by modality; empty for a model of an early version
        # A file that a person gives shows more than a face, as a recording in a folder does.
        self._media = face_columns.with_detector(config.media, are_recordings=True)
        self._image_size = image_size(config)
        self._decoding, self._classifying = threading.Lock(), threading.Lock()

    def predict(
        self,
        source: Source | Sequence[Source] | None = None,
        *,
        video: Source | None = None,
        audio: Source | None = None,
        text: str | None = None,
    ) -> Prediction | list[Prediction]:
        """One record of a clip, or a list of them for a list or a folder.

        `source` is a path, frames as uint8 (F, H, W, 3), sound as (samples, rate in Hz), or a mapping of `video`,
        `audio` and `text`; in its place these may be arguments. A video brings its own sound. Files that are broken
        give a record whose statuses say so. Raises FileNotFoundError for a file that is not there.
        """
        parts = {name: part for name, part in zip(PARTS, (video, audio, text), strict=True) if part is not None}
        if (source is None) == (not parts):
            raise ValueError("found both or nothing, expected a source, or video, audio and text as arguments")
        with TemporaryDirectory(prefix="emo_ray-") as scratch:
            if is_folder(source):
                assert isinstance(source, str | Path)
                return list(self.predict_clips(clips_of_folder(Path(source))))
            many = source if isinstance(source, list) else [parts if source is None else source]
            clips = [clip_of(each, str(i), Path(scratch)) for i, each in enumerate(many)]
            predictions = list(self.predict_clips(clips))
        return predictions if isinstance(source, list) else predictions[0]

    def predict_clips(self, clips: Sequence[Clip]) -> Iterator[Prediction]:
        """A record of each clip, in their order, a few clips at once."""
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            some = clips[start : start + _CLIPS_AT_ONCE]
            yield from self.classify(some, self.decode(some))

    def decode(self, clips: Sequence[Clip]) -> pa.Table:
        """Clips as rows of shards: frames, sound, words and statuses; where `transcribe.model` is set, heard words."""
        boxes_of = face_columns.boxes_of(self._media.face, clips)
        with self._decoding:  # else two threads' clips would take turns, and both wait for the other's last
            rows = [
                {**row, "clip_id": str(i)}  # names may repeat
                for i, clip in enumerate(clips)
                for row in shards.rows(
                    IdentifiedClip(clip, "", self.config.data.identity),
                    self._media,
                    self._image_size,
                    boxes_of.get(clip.clip_id),
                )
            ]
        table = pa.Table.from_pylist(rows, shards.SCHEMA)
        with self._classifying:
            if self._recogniser is None:
                return table
            spec, module = self._recogniser
            return transcripts.filled_from(table, transcripts.believed_in(transcribe_rows(spec, module, table)))

    def classify(self, clips: Sequence[Clip], table: pa.Table) -> list[Prediction]:
        """Records of clips that `decode` made rows of."""
        with self._classifying:
            batch, table, attention = with_features(self._models, table, {})
        if windows := windows_of((), self._models.head.offsets):  # nobody says who follows whom
            batch = with_context(batch, batch, windows)
        shown = {
            column: calibrated(values_BK, self.temperature)
            for column, values_BK in shown_probabilities(self._models, batch).items()
        }
        distances = familiarity.distances(self._models.head, batch.to(self._models.device))
        present_BM = batch.present_BM.cpu().numpy()
        predictions = []
        for b, (clip, row) in enumerate(zip(clips, table.to_pylist(), strict=True)):
            by_column = {column: self._by_class(values_BK[b]) for column, values_BK in shown.items()}
            usable = [name for m, name in enumerate(MODALITIES) if present_BM[b, m]]
            probabilities = by_column[TOGETHER] if usable else {}
            predictions.append(
                Prediction(
                    name=clip.clip_id,
                    label=max(probabilities, key=probabilities.__getitem__) if usable else None,
                    probabilities=probabilities,
                    parts={name: by_column[ALONE[name]] for name in usable},
                    without={name: by_column[WITHOUT[name]] for name in usable if len(usable) > 1},
                    statuses={name: row[f"{name}_status"] for name in MODALITIES},
                    text=row["text"],
                    attention=attention[b],
                    unfamiliar=familiarity.unfamiliar(
                        {name: float(distance_B[b]) for name, distance_B in distances.items()}, self.distance_bounds
                    ),
                )
            )
        return predictions

    def _by_class(self, values_K: Any) -> dict[str, float]:
        return dict(zip(self.labels, values_K.tolist(), strict=True))

    @cached_property
    def _recogniser(self) -> Any:
        """The recogniser's spec and module; None where none is set, and where an endpoint would be asked."""
        if self.config.transcribe.model is None or self.config.transcribe.url is not None:
            return None
        spec = recogniser(self.config)
        return spec, spec.built(self._models.device)
