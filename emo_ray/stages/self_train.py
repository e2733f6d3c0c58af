"""self_train: a teacher labels clips that nobody labelled, a student learns from both, and the better one teaches next.

Every arrow of a round is a stage of its own with an artefact of its own, so a job that was killed goes on at the arrow
it was at, and a second run replays all rounds from what is there. The rounds of a smaller `rounds.most` are the first
of those of a larger one: running with it gives the state after that round back.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from emo_ray import cluster, store, tracking
from emo_ray.config import Config, flatten, override
from emo_ray.config.job_settings import Rounds
from emo_ray.data import pseudo
from emo_ray.models import checkpoint_files
from emo_ray.progress import console, say
from emo_ray.reports import rounds
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.fitting.plan import labels_of, no_folds
from emo_ray.stages.prepare import MANIFEST, Prepared, prepare
from emo_ray.stages.pseudo_label import pseudo_label
from emo_ray.stages.train import train
from emo_ray.training.pseudo_label_policies import drift

VERSION = 2  # 2: paths are those in the store
ROUNDS = "rounds.json"
_SCORES = ("waf", "accuracy", "uar", "n")
_DECIDING = ("seed", "media", "tables", "emovclip", "audio", "text", "fusion", "train", "pseudo", "rounds")


@dataclass(frozen=True)
class Round:
    """What a round did; round 0 is the first teacher. `rounds_report` says what the fields hold."""

    number: int
    taught_by: int | None
    checkpoint: str | None
    pseudo_labels: str | None
    accepted: dict[str, int]
    drift: list[str]
    scores: dict[str, float]
    gain: float | None = None
    kept: bool = False


@dataclass(frozen=True)
class SelfTrained:
    """The folder of a job's rounds.json, table and picture, and the best model's checkpoint folder."""

    path: Path
    content: dict

    @property
    def best(self) -> Path:
        """The checkpoint folder to go on with."""
        return self.path.parents[1] / self.content["checkpoint"]

    def summary(self) -> dict:
        """The content of rounds.json, with the best checkpoint's path as other jobs take it."""
        return self.content | {"checkpoint": str(self.best)}

    def show(self) -> None:
        """The table, for people."""
        console.print(rounds.table(self.content))
        say(f"picture: {self.path / rounds.PAGE}")
        say(f"the best model: checkpoint={self.best}")


def self_train(config: Config) -> SelfTrained:
    """Rounds of self-training until they bring nothing more; `checkpoint`, or a model trained here, teaches first.

    Raises ValueError where rounds could not be judged, or the judgement would not be fair.
    """
    no_folds(config)
    if config.train.pseudo_labels is not None:
        given = f"found train.pseudo_labels={config.train.pseudo_labels}, expected none"
        raise ValueError(f"{given}: self-training makes its own; jobs/train.py takes some from elsewhere")
    prepared = prepare(config)
    _check_clips(prepared)
    root = cluster.store_root(config)
    first = _first(config, prepared)
    key = _key(config, prepared, first)
    job = tracking.open_run(config, root, key, f"self-training-{key}")
    with job.running():
        played, ended = _played(config, prepared, first, job)
        best = best_of(played)
        job.metrics({f"teacher/{name}": value for name, value in first.scores.items()})
        job.metrics({f"validation/{name}": value for name, value in best.scores.items()} | {"best_round": best.number})
    content = {
        "rounds": [_placed(root, found) for found in played],
        "labelled": _counts(labels_of(prepared, "train"), prepared.labels),
        "best": best.number,
        "checkpoint": _placed(root, best)["checkpoint"],
        "ended": ended,
    }
    folder = root / "self_train" / store.digest(VERSION, key, content)
    if not store.is_complete(folder):
        meta = {"kind": "self_train", "version": VERSION, "checkpoint": content["checkpoint"]}
        with store.writing(folder, meta) as temporary:
            store.write_text(temporary / ROUNDS, json.dumps(content, indent=1, ensure_ascii=False))
            rounds.write(content, temporary)
    return SelfTrained(folder, content)


def best_of(played: Sequence[Round]) -> Round:
    """The last that was kept: each kept one was better than all before it."""
    return next(found for found in reversed(played) if found.kept)


def judged(found: Round, played: Sequence[Round]) -> Round:
    """A new round with what it gained, kept where its validation WAF is above that of all before."""
    if not found.scores:
        return found
    gain = found.scores["waf"] - best_of(played).scores["waf"]
    return replace(found, gain=gain, kept=gain > 0)


def over(played: Sequence[Round], own: Rounds) -> str | None:
    """Why no further round is to be played; None where one is."""
    last = played[-1]
    if last.number == 0:
        return None
    if not last.accepted:
        return "no clip was accepted"
    same = [before.number for before in played[:-1] if before.checkpoint == last.checkpoint]
    if same:
        return f"nothing changed: the student of round {last.number} is the model of round {same[0]}"
    rose = [found.number for found in played if found.number == 0 or (found.kept and found.gain >= own.min_gain)]
    if last.number - rose[-1] >= own.patience:
        points = f"{100 * own.min_gain:g} points"
        return f"validation WAF has not risen by {points} for {own.patience} rounds (rounds.patience)"
    if last.number >= own.most:
        return f"{own.most} rounds are played (rounds.most)"
    return None


def _placed(root: Path, found: Round) -> dict:
    """A round as rounds.json holds it: folders of the store by their path in it, so that the store may be moved."""
    placed = asdict(found)
    for name in ("checkpoint", "pseudo_labels"):
        if placed[name] is not None and Path(placed[name]).is_relative_to(root):
            placed[name] = Path(placed[name]).relative_to(root).as_posix()
    return placed


def _played(config: Config, prepared: Prepared, first: Round, job: tracking.Run) -> tuple[list[Round], str]:
    """All rounds, and why there are no more; each has a run of its own inside the job's."""
    played, root = [first], cluster.store_root(config)
    say(f"round 0: validation WAF {first.scores['waf']:.3f}")
    while (ended := over(played, config.rounds)) is None:
        number, teacher = len(played), best_of(played)
        run = tracking.open_run(config, root, store.digest(job.key, number), f"round-{number}", parent=job)
        with run.running():
            found = judged(_round(config, prepared, number, teacher), played)
            played.append(found)
            numbers = {"accepted": sum(found.accepted.values()), "kept": found.kept, "taught_by": teacher.number}
            numbers |= {} if found.gain is None else {"gain": found.gain}
            run.metrics(numbers | {f"validation/{name}": value for name, value in found.scores.items()})
            if found.pseudo_labels is not None:
                run.metrics({f"accepted/{label}": count for label, count in found.accepted.items()})
        score = f"validation WAF {found.scores['waf']:.3f} ({found.gain:+.3f})" if found.scores else "no student"
        say(f"round {number}: {numbers['accepted']} clips accepted, {score}, {'kept' if found.kept else 'not kept'}")
    return played, ended


def _round(config: Config, prepared: Prepared, number: int, teacher: Round) -> Round:
    """One round, from its teacher to its student."""
    given = pseudo_label(override(config, {"checkpoint": teacher.checkpoint, "pseudo.round": number}))
    accepted = pseudo.read(given.path, prepared.labels, config.train)
    counts = _counts(accepted.label_of, prepared.labels) if accepted.label_of else {}
    found = Round(number, teacher.number, None, str(given.path), counts, _drift(prepared, counts), {})
    if not counts:
        return found
    changes = {"checkpoint": None, "train.pseudo_labels": str(given.path)}
    if config.rounds.start == "warm":
        changes["fusion.start_from"] = teacher.checkpoint
        has_prompts = (Path(teacher.checkpoint) / checkpoint_files.EMOVCLIP).is_dir() and not config.tables.video
        if config.train.pseudo_phases == "both" and has_prompts:  # else its EmoVCLIP is the teacher's anyway
            changes["emovclip.start_from"] = teacher.checkpoint
    student = train(override(config, changes)).path
    return replace(found, checkpoint=str(student), scores=_validated(student))


def _first(config: Config, prepared: Prepared) -> Round:
    """The first teacher, which is kept until a student is better."""
    if config.checkpoint is None:
        path = train(config).path
        scores = _validated(path)
    else:
        path = Path(config.checkpoint).absolute()
        _check_teacher(path, prepared)
        own = {"data.manifest": str(prepared.path / MANIFEST), "data.corpus": "table", "data.root": None}
        own |= {"data.columns": {}, "checkpoint": str(path), "evaluate.split": "validation"}  # the very splits of here
        found = evaluate(override(config, own)).report["available"]
        scores = {name: found[name] for name in _SCORES}
    return Round(0, None, str(path), None, {}, [], scores, kept=True)


def _validated(path: Path) -> dict[str, float]:
    """What a model that was trained here reached on validation at its best epoch."""
    found = store.read_meta(path)["best"]["fusion"]
    if "waf" not in found:
        raise ValueError(f"{path.name}: found no validation clip with any usable modality, expected some to judge by")
    return {name: found[name] for name in _SCORES}


def _check_clips(prepared: Prepared) -> None:
    if not labels_of(prepared, "validation"):
        raise ValueError(
            "found no labelled validation clips, expected some: rounds are judged on them, so label clips whose split "
            "is validation, or give a manifest without a validation split, and one is cut from train"
        )
    if not any(clip.split == "unlabelled" for clip in prepared.clips):
        raise ValueError(
            "found no unlabelled clips, expected some that a teacher can label: rows without a label, or with the "
            "split unlabelled"
        )


def _check_teacher(path: Path, prepared: Prepared) -> None:
    """Raises ValueError where a model from elsewhere knows clips that it or its students are judged on."""
    _, theirs = checkpoint_files.read_config(path)
    if theirs != prepared.labels:
        raise ValueError(
            f"{path}: found a teacher of the classes {', '.join(theirs)}, expected {', '.join(prepared.labels)} in "
            f"this order: set data.labels=[{','.join(theirs)}], or let a first teacher be trained (checkpoint=null)"
        )
    seen = json.loads((path / checkpoint_files.SEEN).read_text(encoding="utf-8"))
    known = [
        clip.clip_id
        for clip in prepared.clips
        if (clip.split == "test" and clip.clip_id in seen)
        or (clip.split == "validation" and seen.get(clip.clip_id) == "train")
    ]
    if known:
        raise ValueError(
            f"{path}: found a teacher that was trained or selected on {len(known)} clips of validation or test "
            f"(first: {known[0]!r}), expected none: its students would learn them. Give the splits it was trained "
            "with, or let a first teacher be trained (checkpoint=null)"
        )


def _drift(prepared: Prepared, counts: dict[str, int]) -> list[str]:
    """Classes that accepted clips have far less or more often than labelled ones."""
    if not counts:
        return []
    labelled = _counts(labels_of(prepared, "train"), prepared.labels)
    found = drift(np.array(list(labelled.values())), np.array(list(counts.values())))
    return [f"{label} {word}" for label, word in zip(prepared.labels, found, strict=True) if word]


def _counts(label_of: dict[str, int], labels: Sequence[str]) -> dict[str, int]:
    found = Counter(label_of.values())
    return {label: found[k] for k, label in enumerate(labels)}


def _key(config: Config, prepared: Prepared, first: Round) -> str:
    """Of what decides the rounds, but not how many there are: more of them go on with the same runs in MLflow."""
    flat = {name: value for name, value in flatten(config).items() if name.split(".")[0] in _DECIDING}
    flat.pop("rounds.most")
    flat["train.num_workers"] = config.train.shares
    weights = store.digest_path(Path(first.checkpoint) / checkpoint_files.WEIGHTS)
    return store.digest(VERSION, flat, prepared.path.name, weights)
