"""How a trained model becomes a checkpoint folder: its weights, what it has seen, and its model card."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emo_ray import durable, store
from emo_ray.config import Config
from emo_ray.data.prepared import Prepared
from emo_ray.data.pseudo import PseudoLabels
from emo_ray.models import checkpoint
from emo_ray.models.checkpoint_files import (
    CALIBRATION,
    CARD,
    EMOVCLIP,
    FAMILIARITY,
    SEEN,
    FittedTemperature,
    digests,
)
from emo_ray.models.clip_source import description
from emo_ray.models.identity import licence_notes
from emo_ray.stages.fitting.plan import TrainingPlan
from emo_ray.training import speaker_scaling
from emo_ray.training.divergence import stopped_early
from emo_ray.training.selection import Choice

_SUSPICIOUS_WAF = 0.995


@dataclass(frozen=True)
class TrainedPhase:
    """What was trained, and on how many clips, pseudo-labelled ones among them.

    `choice` is what inner folds chose, where validation clips were trained on too. `calibration` is the temperature of
    a model's probabilities, where there were clips to fit it on; `familiarity` is models.familiarity.bounds.
    """

    name: str
    clips: int
    pseudo: PseudoLabels | None = None
    choice: Choice | None = None
    calibration: FittedTemperature | None = None
    familiarity: Mapping[str, float] | None = None


def write_checkpoint(
    folder: Path, best: dict, config: Config, prepared: Prepared, phase: TrainedPhase, video_path: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Write the best epoch into a checkpoint folder; a model's holds its EmoVCLIP as well.

    Returns what the folder's meta says of training: `best`, the metrics of each phase at its best epoch on validation
    clips (in inner folds, where they chose), `history`, the metrics of every epoch, `stopped`, a message for each phase
    that diverged, where any did, `notes` for the user, and the digests of its files.
    """
    measured = phase.choice.metrics if phase.choice else best["metrics"]
    metrics = {k.removeprefix("val_"): v for k, v in measured.items() if k.startswith("val_")}
    settings = getattr(config, phase.name.lower())
    epochs_done = len(best["history"])
    message = stopped_early(phase.name.lower(), settings.lr, epochs_done, best["planned"])
    stopped = [message] if message else []
    notes = _notes(phase, best["history"])
    card = _card(phase, config, prepared, metrics, [*stopped, *notes])
    checkpoint.write(folder, best["model"], config, prepared.labels, card)
    durable.write_text(folder / SEEN, json.dumps(_seen(config, prepared, phase)))
    if phase.calibration is not None:
        durable.write_text(folder / CALIBRATION, json.dumps(phase.calibration))
    if phase.familiarity is not None:
        durable.write_text(folder / FAMILIARITY, json.dumps(phase.familiarity))
    best_of_phases = {phase.name.lower(): {**metrics, "epoch": best["epoch"]}}
    if video_path is not None:
        if video_path != folder / EMOVCLIP:
            _link_tree(video_path, folder / EMOVCLIP)
        video_meta = store.read_meta(video_path)
        best_of_phases |= video_meta["best"]
        stopped = [*video_meta.get("stopped", ()), *stopped]
        notes = [*video_meta.get("notes", ()), *notes]
    about = {"best": best_of_phases, "history": best["history"], "notes": notes, **digests(folder)}
    return about | ({"stopped": stopped} if stopped else {})


def write_video(folder: Path, plan: TrainingPlan, state: Mapping[str, torch.Tensor], config: Config) -> Path:
    """Write the planned EmoVCLIP with the state of the joint phase into a model's folder; returns its folder there."""
    target = folder / EMOVCLIP
    assert plan.video_path is not None, "this state is of an EmoVCLIP that was planned"
    _link_tree(plan.video_path, target)
    card = (target / CARD).read_text(encoding="utf-8")
    joint = f"- then trained on together with the head: {config.train.joint_epochs} epochs at most\n"
    checkpoint.write(
        target, state, config, plan.prepared.labels, card.replace("- validation", f"{joint}- validation", 1)
    )
    return target


def _notes(phase: TrainedPhase, history: Sequence[Mapping[str, float]]) -> list[str]:
    """What a user must know: what was chosen in inner folds, and scores that are too good to be true."""
    notes = [phase.choice.note] if phase.choice else []
    first_waf = phase.choice.metrics["val_waf"] if phase.choice else history[0].get("val_waf", 0.0)
    if first_waf >= _SUSPICIOUS_WAF:
        notes.append(
            f"warning: {phase.name} reaches {100 * first_waf:.1f} % WAF on clips that it was not trained on, after one "
            "epoch or in inner folds: features that were trained on the labels of these clips look like that"
        )
    return notes


def _seen(config: Config, prepared: Prepared, phase: TrainedPhase) -> dict[str, str]:
    """The split of every clip that decided the weights, also of those that the weights it started from had seen."""
    seen: dict[str, str] = {}
    for start in (config.emovclip.start_from, config.fusion.start_from):
        if start is not None and (Path(start) / SEEN).is_file():
            seen |= store.read_json(Path(start) / SEEN)
    seen |= dict.fromkeys(phase.pseudo.target_of if phase.pseudo else (), "train")
    for clip in prepared.clips:
        if clip.split in ("train", "validation") and clip.label is not None:
            seen[clip.clip_id] = "train" if phase.choice else clip.split
    return seen


def _card_of_features(config: Config) -> list[str]:
    """Where the features of each modality come from."""
    sources = {
        "video": f"frozen CLIP: {description(config)}; trained: {config.emovclip.trained}",
        "audio": f"sound encoder: {config.audio.encoder}",
        "text": f"text encoder: {config.text.encoder}",
    }
    sources |= {
        name: f"{name}: tables {', '.join(Path(p).name for p in config.tables.of(name))}"
        for name in config.tables.given
    }
    starts = {"EmoVCLIP": config.emovclip.start_from, "head": config.fusion.start_from}
    sources |= {name: f"{name} started from: {Path(path).name}" for name, path in starts.items() if path}
    return [f"- {line}" for line in (*sources.values(), *licence_notes(config))]


def _card_of_scaling(config: Config, phase: TrainedPhase) -> list[str]:
    """Whether features are standardised by speaker, and what that asks of the clips that are predicted."""
    if config.tables.standardise == "corpus" or phase.name != "fusion":
        return []
    return [
        f"- {speaker_scaling.NOTE}: name the speakers of clips to be predicted, and give many clips of each at once",
        "- it knows the speakers of its training and validation clips by name",
    ]


def _card_of_pseudo_labels(config: Config, phase: TrainedPhase) -> list[str]:
    """How many clips no person labelled, and whose labels they have."""
    pseudo = phase.pseudo
    if pseudo is None:
        return []
    classes = ", ".join(f"{label} ({count})" for label, count in pseudo.counts().items() if count)
    how = f"round {pseudo.round}; {config.train.pseudo_targets} targets, weight {pseudo.weight:g}"
    return [f"- of these pseudo-labelled: {len(pseudo.target_of)} by {pseudo.teacher} ({how}): {classes}"]


def _card_of_calibration(phase: TrainedPhase) -> list[str]:
    """The temperature, and the expected calibration error in percent before and after it."""
    fitted = phase.calibration
    if fitted is None:
        return []
    before, after = (100 * fitted["ece"][when] for when in ("before", "after"))
    clips = f"{fitted['n']} clips ({fitted['clips']})"
    return [
        f"- calibration: temperature {fitted['temperature']:.3f}, fitted on {clips}; their expected calibration error: "
        f"{before:.1f} % before, {after:.1f} % after"
    ]


def _link_tree(source: Path, target: Path) -> None:
    """A copy that shares its bytes where the file system can: checkpoints of one EmoVCLIP are many in a sweep."""
    shutil.copytree(source, target, copy_function=lambda a, b: durable.link_or_copy(Path(a), Path(b)))


def _card(
    phase: TrainedPhase, config: Config, prepared: Prepared, metrics: dict[str, float], notes: Sequence[str]
) -> str:
    counts = Counter(clip.label for clip in prepared.clips if clip.split == "train")
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
    lines = [
        f"# {phase.name} checkpoint of emo_ray",
        "",
        f"- trained on: {Path(config.data.manifest or 'the synthetic corpus').name}, {phase.clips} clips",
        *_card_of_pseudo_labels(config, phase),
        f"- classes (labelled training clips): {', '.join(f'{k} ({counts[k]})' for k in prepared.labels)}",
        *_card_of_features(config),
        *_card_of_scaling(config, phase),
        f"- validation: {numbers or 'none'}",
        *_card_of_calibration(phase),
        *(f"- {note}" for note in notes),
        "",
        "Emotion labels are what annotators of one corpus perceived. The model has not been tested on languages,",
        "recording conditions or groups of people beyond its corpus, and must not be used to judge individuals.",
        "",
    ]
    return "\n".join(lines)
