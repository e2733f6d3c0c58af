"""What a config trains, before anything is: on which clips, from which features, and under which names.

The names are digests of everything that decides a result, so each phase is trained once: who changes only `fusion.*`
trains only the head again.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.config.model_settings import Train
from emo_ray.data import pseudo
from emo_ray.data.labels import vocabulary
from emo_ray.data.pseudo import PseudoLabels
from emo_ray.models import checkpoint_files
from emo_ray.models.identity import frozen_digest
from emo_ray.progress import say
from emo_ray.stages.annotate import Readings, readings_of
from emo_ray.stages.encoding.actor import EncoderSpec
from emo_ray.stages.features import frozen_encoders
from emo_ray.stages.fitting.checkpoint_folder import VERSION
from emo_ray.stages.prepare import Prepared

LabelOf = dict[str, int]  # clip_id -> class index


@dataclass(frozen=True)
class TrainingClips:
    """The clips that a phase is trained on, pseudo-labelled ones among them, and those that it is judged on."""

    labelled: LabelOf
    validation: LabelOf
    pseudo: PseudoLabels | None = None

    @property
    def train(self) -> LabelOf:
        """The class of every training clip; that of a pseudo-labelled one is the one predicted."""
        return {**self.labelled, **self.pseudo.label_of} if self.pseudo else self.labelled

    @property
    def all_clips(self) -> LabelOf:
        """Training and validation clips."""
        return self.train | self.validation

    @property
    def digest_parts(self) -> list:
        """What decides the result beside the classes of the clips, for digests; nothing without pseudo-labels."""
        return [{"pseudo_labels": self.pseudo.digest}] if self.pseudo else []


@dataclass(frozen=True)
class TrainingPlan:
    """What a config trains: on which clips and features, and where its checkpoints lie or will lie."""

    prepared: Prepared
    wanted: TrainingClips
    readings: Readings | None
    frozen: tuple[EncoderSpec, ...]
    key: str
    path: Path
    video_path: Path | None  # of EmoVCLIP; None where none is trained


def resolve_training(config: Config, prepared: Prepared) -> TrainingPlan:
    """What `make` will make. Raises ValueError where there is nothing to train on."""
    root = cluster.store_root(config)
    wanted = _wanted_clips(config, prepared)
    video_path = _emovclip_path(config, prepared, wanted, root)
    readings = labelled_readings(config, prepared, wanted.train)
    frozen = tuple(frozen_encoders(config, readings))
    key = _fusion_digest(config, prepared, wanted, frozen, video_path)
    return TrainingPlan(prepared, wanted, readings, frozen, key, root / "checkpoints" / f"model-{key}", video_path)


def labelled_readings(config: Config, prepared: Prepared, also: Collection[str] = ()) -> Readings | None:
    """Readings of every labelled clip, of all splits at once: a budget is for one asking. None without annotate.url.

    `also`: the ids of other clips that are trained on.
    """
    return readings_of(config, [c for c in prepared.clips if c.label is not None or c.clip_id in also])


def no_folds(config: Config) -> None:
    """Raises ValueError where folds are asked for, of which only cross-validation knows."""
    if config.data.folds is not None:
        found = f"found data.folds={config.data.folds}, expected none"
        raise ValueError(f"{found}: one model has one split; jobs/crossvalidate.py trains and tests in folds")


def labels_of(prepared: Prepared, split: str) -> LabelOf:
    """The class index of every labelled clip of a split."""
    index = {label: i for i, label in enumerate(prepared.labels)}
    return {c.clip_id: index[c.label] for c in prepared.clips if c.split == split and c.label is not None}


def parts_with(prepared: Prepared, wanted: Iterable[str]) -> list[str]:
    """The parts that hold any of these clips, in their order."""
    ledger = prepared.ledger
    hit = set(ledger.filter(pc.is_in(ledger["clip_id"], pa.array(list(wanted), pa.string())))["part"].to_pylist())
    return [part for part in prepared.parts if part in hit]


def _wanted_clips(config: Config, prepared: Prepared) -> TrainingClips:
    """Raises ValueError where there is nothing to train on, or pseudo-labels that must not be trained on."""
    if len(prepared.labels) < 2:
        vocabulary(prepared.labels, None)  # says what is wrong
    labelled, validation = (labels_of(prepared, split) for split in ("train", "validation"))
    if not labelled:
        raise ValueError(f"{config.data.manifest}: found no labelled training clips, expected at least one per class")
    if config.train.pseudo_labels is None:
        return TrainingClips(labelled, validation)
    accepted = pseudo.read(Path(config.train.pseudo_labels), prepared.labels, config.train)
    split_of = {clip.clip_id: clip.split for clip in prepared.clips}
    wrong = [(name, split_of.get(name)) for name in accepted.label_of if split_of.get(name) != "unlabelled"]
    if wrong:
        shown = ", ".join(f"{name!r} ({split or 'not in the manifest'})" for name, split in sorted(wrong)[:5])
        raise ValueError(
            f"train.pseudo_labels: found {len(wrong)} accepted clips that are not unlabelled ones of this corpus "
            f"({shown}), expected none: nothing is trained on that it is judged on, so run jobs/pseudo_label.py with "
            "this manifest and these splits"
        )
    if not accepted.label_of:
        say(f"{config.train.pseudo_labels}: no clip was accepted, so labelled clips alone are trained on")
    return TrainingClips(labelled, validation, accepted if accepted.label_of else None)


def with_video(config: Config, prepared: Prepared, wanted: TrainingClips) -> TrainingClips:
    """The clips of EmoVCLIP's phase."""
    ledger = prepared.ledger
    usable = ledger.filter(pc.equal(ledger["video_status"], "ok"))["clip_id"].to_pylist()
    labelled, validation = (
        {clip_id: label_of[clip_id] for clip_id in usable if clip_id in label_of}
        for label_of in (wanted.labelled, wanted.validation)
    )
    both = wanted.pseudo if config.train.pseudo_phases == "both" else None
    return TrainingClips(labelled, validation, both and both.only(usable))


def _emovclip_path(config: Config, prepared: Prepared, wanted: TrainingClips, root: Path) -> Path | None:
    """Where the EmoVCLIP of this config and corpus lies or will lie; None where none is to be trained."""
    if config.tables.video:
        return None
    usable = with_video(config, prepared, wanted)
    if not usable.train:
        say("no training clip has video: the model will have none")
        return None
    start = checkpoint_files.start_folder(config, prepared.labels)
    key = store.digest(
        VERSION,
        frozen_digest(config),
        config.emovclip.model_dump(exclude={"clip", "weights", "start_from"}),
        _train_settings(config),
        prepared.shards.name,
        parts_with(prepared, usable.all_clips),
        prepared.labels,
        sorted(usable.train.items()),
        sorted(usable.validation.items()),
        *([store.digest_path(start / checkpoint_files.WEIGHTS)] if start else []),
        *usable.digest_parts,
    )
    return root / "checkpoints" / f"emovclip-{key}"


def _fusion_digest(
    config: Config, prepared: Prepared, wanted: TrainingClips, frozen: Sequence[EncoderSpec], video_path: Path | None
) -> str:
    start = checkpoint_files.fusion_start_folder(config, prepared.labels)
    return store.digest(
        VERSION,
        config.fusion.model_dump(exclude={"start_from"}),
        _train_settings(config),
        [encoder.digest for encoder in frozen],
        video_path and video_path.name,
        prepared.shards.name,
        parts_with(prepared, wanted.all_clips),
        prepared.labels,
        sorted(wanted.train.items()),
        sorted(wanted.validation.items()),
        *([store.digest_path(start / checkpoint_files.WEIGHTS)] if start else []),
        *wanted.digest_parts,
    )


def _train_settings(config: Config) -> dict:
    """Of both phases. What is trained towards pseudo-labels is in their digest, and changes nothing without any."""
    elsewhere = {"use_gpu", "max_failures", *(name for name in Train.model_fields if name.startswith("pseudo_"))}
    decided = config.train.model_dump(exclude=elsewhere)
    return decided | {"num_workers": config.train.shares, "seed": config.seed}
