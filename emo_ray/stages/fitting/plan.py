"""What a config trains, before anything is: on which clips, from which features, and under which names.

The names are digests of everything that decides a result, so each phase is trained once: who changes only `fusion.*`
trains only the head again. Planning reads files and writes none, without Ray, and without torch unless there are
pseudo-labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from emo_ray import cluster, store
from emo_ray.config import Config, settings_of
from emo_ray.config.model_settings import SMALL
from emo_ray.data.dialogues import Windows, windows_of, with_neighbours
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.data.labels import vocabulary
from emo_ray.data.prepared import LabelOf, Prepared
from emo_ray.data.splits import grouped
from emo_ray.data.status import are_ok
from emo_ray.inference.encoders import EncoderSpec, frozen_encoders
from emo_ray.models.checkpoint_files import WEIGHTS, fusion_start_folder, start_folder
from emo_ray.models.identity import SPEAKER_VERSION, frozen_digest
from emo_ray.progress import say
from emo_ray.stages.corpus import Corpus, encoded_with

if TYPE_CHECKING:
    from emo_ray.data.pseudo import PseudoLabels
    from emo_ray.data.targets import Targets

VERSION = 8  # of trained models; 7: they hold their temperature; 8: features are dropped in training

NO_VIDEO_IN_FOLDS = (
    "video is left out: EmoVCLIP would have to be trained in every fold; give its features as tables.video"
)


@dataclass(frozen=True)
class TrainingClips:
    """The clips that a phase is trained on, pseudo-labelled ones among them, and those that it is judged on.

    What is made of them is made once: loops over a million clips look at it.
    """

    labelled: LabelOf
    validation: LabelOf
    pseudo: "PseudoLabels | None" = None
    votes: "Targets | None" = None  # of labelled clips

    @cached_property
    def train(self) -> LabelOf:
        """The class of every training clip; for a pseudo-labelled one the predicted class."""
        return {**self.labelled, **self.pseudo.label_of} if self.pseudo else self.labelled

    @cached_property
    def all_clips(self) -> LabelOf:
        """Training and validation clips."""
        return self.train | self.validation

    @property
    def digest_parts(self) -> list:
        """For digests: what decides the result beside the classes of the clips; empty without pseudo-labels."""
        pseudo = [{"pseudo_labels": self.pseudo.digest}] if self.pseudo else []
        return [*pseudo, *([{"votes": self.votes.digest}] if self.votes else [])]

    @cached_property
    def targets(self) -> "Targets | None":
        """What clips are trained towards that have more than a label: votes, and pseudo-labels."""
        if self.pseudo is None:
            return self.votes
        return self.votes | self.pseudo.targets if self.votes else self.pseudo.targets


@dataclass(frozen=True)
class TrainingPlan:
    """What a config trains: on which clips and features, and where its checkpoints lie or will lie."""

    corpus: Corpus
    clips: TrainingClips
    encoders: tuple[EncoderSpec, ...]  # of sound and text, and tables: all but EmoVCLIP's
    key: str
    path: Path
    video_path: Path | None  # of EmoVCLIP; None where none is trained
    windows: Windows | None  # the neighbours of all clips; None for a head without context
    inner_folds: bool = False  # whether epochs and settings are chosen in inner folds, to train on all labelled clips

    @property
    def prepared(self) -> Prepared:
        """The prepared corpus."""
        return self.corpus.prepared


def resolve_training(config: Config, corpus: Corpus) -> TrainingPlan:
    """What `phases.train_phases` will train. Raises ValueError where there is nothing to train on."""
    root = cluster.store_root(config)
    prepared = corpus.prepared
    clips = _training_clips(config, prepared)
    video_path = _emovclip_path(config, prepared, clips, root)
    _check_joint(config, video_path)
    if inner_folds := _uses_inner_folds(config, prepared, clips, video_path):
        labelled = clips.labelled | clips.validation
        clips = TrainingClips(labelled, {}, votes=votes_of(config, prepared, labelled))
    # Test clips too, because they lie in the same parts, and parts are encoded whole.
    encoded_ids = prepared.labelled_ids | clips.train.keys()
    encoders = tuple(frozen_encoders(config, corpus.texts_for(encoded_with(config, prepared, encoded_ids))))
    windows = windows_of(prepared.clips, config.fusion.context.offsets)
    key = _fusion_digest(config, prepared, clips, encoders, video_path, windows)
    path = root / "checkpoints" / f"model-{key}"
    return TrainingPlan(corpus, clips, encoders, key, path, video_path, windows, inner_folds)


def check_no_folds(config: Config) -> None:
    """Raises ValueError where folds are asked for, of which only cross-validation knows."""
    if config.data.folds is not None:
        raise ValueError(
            f"found data.folds={config.data.folds}, expected none: one model has one split; jobs/crossvalidate.py "
            "trains and tests in folds"
        )


def clips_with_video(config: Config, prepared: Prepared, clips: TrainingClips) -> TrainingClips:
    """The clips of EmoVCLIP's phase."""
    ledger = prepared.ledger
    usable = ledger.filter(are_ok(ledger["video_status"]))["clip_id"].to_pylist()
    labelled, validation = (
        {clip_id: label_of[clip_id] for clip_id in usable if clip_id in label_of}
        for label_of in (clips.labelled, clips.validation)
    )
    pseudo = clips.pseudo if config.train.pseudo_phases == "both" else None
    votes = clips.votes and clips.votes.only(labelled)
    return TrainingClips(labelled, validation, pseudo and pseudo.only(usable), votes)


def votes_of(config: Config, prepared: Prepared, label_of: LabelOf) -> "Targets | None":
    """The votes that these clips are trained towards; None where it is their labels.

    Raises ValueError where none of them has votes, and for a head that cannot be trained towards any.
    """
    if config.train.targets == "labels":
        return None
    if config.fusion.is_classical:
        raise ValueError(
            f"found fusion.kind={config.fusion.kind} with train.targets=votes, expected fusion.kind=mlp: classical "
            "heads learn from labels, not from shares of votes"
        )
    from emo_ray.data.targets import of_votes  # it takes torch, which a plan without votes does not need

    votes = of_votes(prepared.clips_of(label_of), prepared.labels, config.train.vote_entropy_weight)
    if votes is None:
        raise ValueError(
            f"{config.data.manifest}: found train.targets=votes and no labelled clip with votes, expected columns such "
            f"as votes.{prepared.labels[0]}, or data.columns.votes=COLUMN"
        )
    return votes


def _training_clips(config: Config, prepared: Prepared) -> TrainingClips:
    """Raises ValueError where there is nothing to train on, or pseudo-labels that must not be trained on."""
    if len(prepared.labels) < 2:
        vocabulary(prepared.labels, None)  # says what is wrong
    labelled, validation = (prepared.labels_of(split) for split in ("train", "validation"))
    if not labelled:
        raise ValueError(f"{config.data.manifest}: found no labelled training clips, expected at least one per class")
    votes = votes_of(config, prepared, labelled)
    if config.train.pseudo_labels is None:
        return TrainingClips(labelled, validation, votes=votes)
    if config.fusion.is_classical:
        raise ValueError(
            f"found fusion.kind={config.fusion.kind} with train.pseudo_labels, expected fusion.kind=mlp: classical "
            "heads learn from labels, not from probabilities"
        )
    from emo_ray.data import pseudo  # it takes torch, which a plan without pseudo-labels does not need

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
    return TrainingClips(labelled, validation, accepted if accepted.label_of else None, votes)


def _uses_inner_folds(
    config: Config, prepared: Prepared, clips: TrainingClips, video_path: Path | None
) -> bool:  # fmt: skip
    """Whether the head is trained on training and validation clips, with what inner folds of them have chosen.

    Raises ValueError where `train.refit` demands it and features or first weights know labels, so that inner folds
    would be judged on what was learnt from them.
    """
    reasons = {
        "an EmoVCLIP that is trained on these labels": video_path is not None,
        "fusion.start_from": config.fusion.start_from is not None,
        "pseudo-labels": clips.pseudo is not None,
    }
    reason = next((name for name, holds in reasons.items() if holds), None)
    if config.train.refit and reason:
        raise ValueError(
            f"found train.refit=true with {reason}, expected one without the other, as inner folds would be judged by "
            "what has seen their labels: set train.refit=false"
        )
    if config.train.refit is not None or reason:
        return bool(config.train.refit)
    groups = grouped([clip for clip in prepared.clips if clip.clip_id in clips.all_clips])
    is_small = len(clips.all_clips) < SMALL and groups.count >= INNER_FOLDS
    return is_small and bool(prepared.labels_of("test"))


def _check_joint(config: Config, video_path: Path | None) -> None:
    """Raises ValueError where a joint phase is asked for and there is nothing that it could train together."""
    obstacles = {
        "no EmoVCLIP to be trained": video_path is None,
        f"fusion.kind={config.fusion.kind}, which has no gradients": config.fusion.is_classical,
        "a head that sees neighbours (fusion.context)": bool(config.fusion.context.offsets),
        "tables.standardise=speaker": config.tables.standardise == "speaker",
    }
    obstacle = next((words for words, is_there in obstacles.items() if is_there), None)
    if config.train.joint_epochs and obstacle:
        raise ValueError(
            f"found train.joint_epochs={config.train.joint_epochs} with {obstacle}, expected one without the other: "
            "set train.joint_epochs=0"
        )


def _emovclip_path(config: Config, prepared: Prepared, clips: TrainingClips, root: Path) -> Path | None:
    """Where the EmoVCLIP of this config and corpus lies or will lie; None where none is to be trained."""
    if config.tables.video or "video" not in config.modalities:
        return None
    usable = clips_with_video(config, prepared, clips)
    if not usable.train:
        say("no training clip has video: the model will have none")
        return None
    start = start_folder(config, prepared.labels)
    key = store.digest(
        VERSION,
        frozen_digest(config),
        settings_of(config, "emovclip"),
        *_clip_parts(prepared, usable),
        *([store.digest_path(start / WEIGHTS)] if start else []),
        *usable.digest_parts,
    )
    return root / "checkpoints" / f"emovclip-{key}"


def _fusion_digest(
    config: Config, prepared: Prepared, clips: TrainingClips, encoders: Sequence[EncoderSpec],
    video_path: Path | None, windows: Windows | None,
) -> str:  # fmt: skip
    start = fusion_start_folder(config, prepared.labels)
    return store.digest(
        VERSION,
        settings_of(config, "fusion"),
        [encoder.digest for encoder in encoders],
        video_path and video_path.name,
        *_clip_parts(prepared, clips),
        *([store.digest_path(start / WEIGHTS)] if start else []),
        *clips.digest_parts,
        *_speaker_parts(config, prepared, clips, windows),
        *_context_parts(prepared, clips, windows),
    )


def _context_parts(prepared: Prepared, clips: TrainingClips, windows: Windows | None) -> list:
    """For digests: who the neighbours of the clips are, and where they lie; empty without context."""
    if windows is None:
        return []
    windows = windows.only(clips.all_clips)
    return [*windows.digest_parts, prepared.parts_with(windows.ids())]


def _speaker_parts(config: Config, prepared: Prepared, clips: TrainingClips, windows: Windows | None) -> list:
    """For digests: who speaks in the clips and their neighbours, where features are standardised by speaker."""
    if config.tables.standardise == "corpus":
        return []
    seen = with_neighbours(clips.all_clips, windows)
    speakers = sorted((clip.clip_id, clip.speaker or "") for clip in prepared.clips if clip.clip_id in seen)
    return [SPEAKER_VERSION, speakers]


def _clip_parts(prepared: Prepared, clips: TrainingClips) -> list:
    """For digests: which clips are trained and judged on, as what, and where they lie."""
    return [
        prepared.shards.name,
        prepared.parts_with(clips.all_clips),
        prepared.labels,
        sorted(clips.train.items()),
        sorted(clips.validation.items()),
    ]
