"""self_train: rounds of teacher, pseudo-labels and student while validation gains, to the best checkpoint.

Every round is a pseudo_label and a train under names of their own, so a job that is killed, or asked for more rounds,
goes on where it stopped. A job with a smaller `rounds.most` than one that is done is the start of it: running it gives
the state after that round back.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emo_ray import cluster, durable, store, tracking
from emo_ray.config import Config, override, settings_of
from emo_ray.config.job_settings import Rounds
from emo_ray.data.prepared import MANIFEST, Prepared
from emo_ray.inference.encoders import frozen_encoders, of_checkpoint
from emo_ray.models.checkpoint_files import EMOVCLIP, SEEN, WEIGHTS, read_config
from emo_ray.models.identity import frozen_digest
from emo_ray.progress import say
from emo_ray.reports import rounds as report_page
from emo_ray.reports.wording import plural
from emo_ray.stages.corpus import Corpus, for_config, open_corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.evaluate import evaluate, validation_interval
from emo_ray.stages.fitting.plan import check_no_folds
from emo_ray.stages.pseudo_label import is_unlabelled, pseudo_label
from emo_ray.stages.result import Result
from emo_ray.stages.train import train_model
from emo_ray.training.bootstrap import DrawnInterval
from emo_ray.training.pseudo_label_policies import drift

VERSION = 3  # 2: paths are those in the store; 3: intervals
ROUNDS = "rounds.json"
_SCORES = ("waf", "accuracy", "uar", "n")
_JUDGED_BY = "available/waf"


@dataclass(frozen=True)
class Round:
    """What a round did; round 0 is the first teacher. `reports.rounds` says what the fields hold."""

    number: int
    taught_by: int | None
    checkpoint: str | None
    pseudo_labels: str | None
    accepted: dict[str, int]
    drift: list[str]
    scores: dict[str, float]
    interval: DrawnInterval | None = None
    gain: float | None = None
    kept: bool = False


def self_train(config: Config, corpus: Corpus | None = None) -> Result:
    """Rounds of self-training until they bring nothing more; `checkpoint`, or a model trained here, teaches first.

    `corpus` is by default the one that `config.data` names. The result's content is that of rounds.json, with the best
    checkpoint's path as other jobs take it. Raises ValueError where rounds could not be judged, or the judgement would
    not be fair.
    """
    check_no_folds(config)
    if config.train.pseudo_labels is not None:
        raise ValueError(
            f"found train.pseudo_labels={config.train.pseudo_labels}, expected none: self-training makes its own; "
            "jobs/train.py takes some from elsewhere"
        )
    config = override(config, {"train.refit": False})  # rounds are judged on validation clips
    corpus = corpus or open_corpus(config, labelled_only=False)
    prepared = corpus.prepared
    _check_clips(prepared)
    root = cluster.store_root(config)
    first = _first(config, corpus)
    key = _key(config, corpus, first)
    job = tracking.open_run(config, root, key, tracking.title(config, "self_train", key))
    with job.running():
        job.dataset(config, prepared.path.name, prepared.counts())
        rounds, ended = _run_rounds(config, corpus, first, job)
        best = best_of(rounds)
        job.metrics({f"teacher/{name}": value for name, value in first.scores.items()})
        job.metrics({f"validation/{name}": value for name, value in best.scores.items()} | {"best_round": best.number})
    content: report_page.RoundsReport = {
        "rounds": [_as_reported(root, round_) for round_ in rounds],
        "labelled": _counts(prepared.labels_of("train"), prepared.labels),
        "best": best.number,
        "checkpoint": _in_store(root, _checkpoint(best)),
        "ended": ended,
    }
    folder = root / "self_train" / store.digest(VERSION, key, content)

    def fill(temporary: Path) -> None:
        durable.write_json(temporary / ROUNDS, content)
        report_page.write(content, temporary)

    store.artefact(folder, {"kind": "self_train", "version": VERSION, "checkpoint": content["checkpoint"]}, fill)
    checkpoint = root / content["checkpoint"]  # an absolute one stays as it is
    lines = [f"picture: {folder / report_page.PAGE}", f"the best model: checkpoint={checkpoint}"]
    return Result(folder, {**content, "checkpoint": str(checkpoint)}, report_page.tables(content), lines)


def best_of(rounds: Sequence[Round]) -> Round:
    """The last round that was kept: each kept one was better than all before it."""
    return next(round_ for round_ in reversed(rounds) if round_.kept)


def _checkpoint(round_: Round) -> str:
    """The model of a round that was kept."""
    assert round_.checkpoint is not None, "a round without a student is never kept"
    return round_.checkpoint


def judged(new: Round, rounds: Sequence[Round]) -> Round:
    """A new round with what it gained, kept where its validation WAF is above that of all before."""
    if not new.scores:
        return new
    gain = new.scores["waf"] - best_of(rounds).scores["waf"]
    return replace(new, gain=gain, kept=gain > 0)


def why_over(rounds: Sequence[Round], settings: Rounds) -> str | None:
    """Why no further round is to be played; None where one is."""
    last = rounds[-1]
    if last.number == 0:
        return None
    if not last.accepted:
        return "no clip was accepted"
    same = [before.number for before in rounds[:-1] if before.checkpoint == last.checkpoint]
    if same:
        return f"nothing changed: the student of round {last.number} is the model of round {same[0]}"
    risen = [r.number for r in rounds if r.number == 0 or (r.kept and (r.gain or 0.0) >= settings.min_gain)]
    if last.number - risen[-1] >= settings.patience:
        points = f"{100 * settings.min_gain:g} points"
        return f"validation WAF has not risen by {points} for {plural(settings.patience, 'round')} (rounds.patience)"
    if last.number >= settings.most:
        return f"{plural(settings.most, 'round')} played (rounds.most)"
    return None


def _as_reported(root: Path, round_: Round) -> report_page.Round:
    """A round as rounds.json holds it: folders of the store by their path in it, so that the store may be moved."""
    folders = {"checkpoint": round_.checkpoint, "pseudo_labels": round_.pseudo_labels}
    reported: Any = asdict(round_) | {name: folder and _in_store(root, folder) for name, folder in folders.items()}
    return reported


def _in_store(root: Path, folder: str) -> str:
    return Path(folder).relative_to(root).as_posix() if Path(folder).is_relative_to(root) else folder


def _run_rounds(config: Config, corpus: Corpus, first: Round, job: tracking.Run) -> tuple[list[Round], str]:
    """All rounds, and why there are no more; each has a run of its own inside the job's."""
    rounds = [first]
    root = cluster.store_root(config)
    say(f"round 0: validation WAF {first.scores['waf']:.3f}")
    while (ended := why_over(rounds, config.rounds)) is None:
        number = len(rounds)
        teacher = best_of(rounds)
        run = tracking.open_run(config, root, store.digest(job.key, number), f"round-{number}", parent=job)
        with run.running():
            new = judged(_run_round(config, corpus, number, teacher, run), rounds)
            rounds.append(new)
            accepted = sum(new.accepted.values())
            values: dict[str, float] = {"accepted": accepted, "kept": new.kept, "taught_by": teacher.number}
            values |= {} if new.gain is None else {"gain": new.gain}
            run.metrics(values | {f"validation/{name}": value for name, value in new.scores.items()})
            if new.pseudo_labels is not None:
                run.metrics({f"accepted/{label}": count for label, count in new.accepted.items()})
        score = f"validation WAF {new.scores['waf']:.3f} ({new.gain:+.3f})" if new.scores else "no student"
        say(f"round {number}: {plural(accepted, 'clip')} accepted, {score}, {'kept' if new.kept else 'not kept'}")
    return rounds, ended


def _run_round(config: Config, corpus: Corpus, number: int, teacher: Round, run: tracking.Run) -> Round:
    """One round, from its teacher to its student."""
    from emo_ray.data import pseudo

    prepared = corpus.prepared
    teacher_checkpoint = _checkpoint(teacher)
    labels = pseudo_label(override(config, {"checkpoint": teacher_checkpoint, "pseudo.round": number}), corpus)
    accepted = pseudo.read(labels.path, prepared.labels, config.train)
    counts = _counts(accepted.label_of, prepared.labels) if accepted.label_of else {}
    round_ = Round(number, teacher.number, None, str(labels.path), counts, _drift(prepared, counts), {})
    if not counts:
        return round_
    changes: dict[str, Any] = {"checkpoint": None, "train.pseudo_labels": str(labels.path)}
    if config.rounds.start == "warm":
        changes["fusion.start_from"] = teacher_checkpoint
        has_prompts = (Path(teacher_checkpoint) / EMOVCLIP).is_dir() and not config.tables.video
        if config.train.pseudo_phases == "both" and has_prompts:  # else its EmoVCLIP is the teacher's anyway
            changes["emovclip.start_from"] = teacher_checkpoint
    student, _ = train_model(override(config, changes), corpus, parent=run)
    interval = validation_interval(config, student, corpus, _JUDGED_BY)
    return replace(round_, checkpoint=str(student), scores=_validation_scores(student), interval=interval)


def _first(config: Config, corpus: Corpus) -> Round:
    """The first teacher, which is kept until a student is better."""
    if config.checkpoint is None:
        path, _ = train_model(config, corpus)
        scores = _validation_scores(path)
        interval = validation_interval(config, path, corpus, _JUDGED_BY)
    else:
        path = Path(config.checkpoint).absolute()
        _check_teacher(path, corpus.prepared)
        scores, interval = _scores_of(config, corpus, path)
    return Round(0, None, str(path), None, {}, [], scores, interval, kept=True)


def _scores_of(config: Config, corpus: Corpus, path: Path) -> tuple[dict[str, float], DrawnInterval]:
    """What a model from elsewhere reaches on the validation split of this corpus, decoded as that model needs it."""
    changes: dict[str, Any] = {
        "data.manifest": str(corpus.prepared.path / MANIFEST),
        "data.corpus": "table",
        "data.root": None,
        "data.outside_root": True,  # what may be read was checked when the corpus was prepared
    }
    changes |= {"data.columns": {}, "data.encoding": None, "data.split_map": {}, "data.label_map": {}}
    changes |= {"checkpoint": str(path), "evaluate.split": "validation"}
    config = override(config, changes)
    model_config = of_checkpoint(config, path)
    corpus = replace(corpus, prepared=prepare_corpus(model_config))
    report = evaluate(config, for_config(corpus, model_config, corpus.prepared.labelled_ids)).content
    interval: DrawnInterval = {"ends": report["intervals"]["available"]["waf"], "drawn": report["drawn"]}
    return {name: report["available"][name] for name in _SCORES}, interval


def _validation_scores(path: Path) -> dict[str, float]:
    """What a model that was trained here reached on validation at its best epoch."""
    best = store.read_meta(path)["best"]["fusion"]
    if "waf" not in best:
        raise ValueError(f"{path.name}: found no validation clip with any usable modality, expected some to judge by")
    return {name: best[name] for name in _SCORES}


def _check_clips(prepared: Prepared) -> None:
    if not prepared.labels_of("validation"):
        raise ValueError(
            "found no labelled validation clips, expected some: rounds are judged on them, so label clips whose split "
            "is validation, or give a manifest without a validation split, and one is cut from train"
        )
    if not any(is_unlabelled(clip) for clip in prepared.clips):
        raise ValueError(
            "found no unlabelled clips, expected some that a teacher can label: rows without a label, or with the "
            "split unlabelled"
        )


def _check_teacher(path: Path, prepared: Prepared) -> None:
    """Raises ValueError where a model from elsewhere has seen clips that it or its students are judged on."""
    _, labels = read_config(path)
    if labels != prepared.labels:
        raise ValueError(
            f"{path}: found a teacher of the classes {', '.join(labels)}, expected {', '.join(prepared.labels)} in "
            f"this order: set data.labels=[{','.join(labels)}], or let a first teacher be trained (checkpoint=null)"
        )
    seen = store.read_json(path / SEEN)
    leaked = [
        clip.clip_id
        for clip in prepared.clips
        if (clip.split == "test" and clip.clip_id in seen)
        or (clip.split == "validation" and seen.get(clip.clip_id) == "train")
    ]
    if leaked:
        raise ValueError(
            f"{path}: found a teacher that was trained or selected on {len(leaked)} clips of validation or test "
            f"(first: {leaked[0]!r}), expected none: its students would learn them. Give the splits it was trained "
            "with, or let a first teacher be trained (checkpoint=null)"
        )


def _drift(prepared: Prepared, counts: dict[str, int]) -> list[str]:
    """Classes that accepted clips have far less or more often than labelled ones."""
    if not counts:
        return []
    labelled = _counts(prepared.labels_of("train"), prepared.labels)
    words = drift(np.array(list(labelled.values())), np.array(list(counts.values())))
    return [f"{label} {word}" for label, word in zip(prepared.labels, words, strict=True) if word]


def _counts(label_of: Mapping[str, int], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(label_of.values())
    return {label: counts[k] for k, label in enumerate(labels)}


def _key(config: Config, corpus: Corpus, first: Round) -> str:
    """The digest of what decides the rounds, without their number: more of them go on with the same runs in MLflow."""
    models = [first.checkpoint, config.emovclip.start_from, config.fusion.start_from, *config.pseudo.teachers]
    return store.digest(
        VERSION,
        settings_of(config, "self_training"),
        corpus.prepared.path.name,
        frozen_digest(config),
        [encoder.digest for encoder in frozen_encoders(config, corpus.texts)],
        [model and store.digest_path(Path(model) / WEIGHTS) for model in models],
        *([store.digest_path(Path(config.pseudo.chat_labels))] if config.pseudo.chat_labels else []),
    )
