"""pseudo_label: a teacher and the unlabelled clips of a corpus to the labels that may be trained on.

Predictions are made part by part and kept, so a killed run goes on where it stopped. What is selected depends on all
clips, of which the driver holds a few numbers each; rows are read and written part by part.
"""

import csv
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.shards import CONTENT
from emo_ray.progress import progress, say, show
from emo_ray.reports import pseudo_labels
from emo_ray.stages import teachers as answering
from emo_ray.stages.features import of_checkpoint
from emo_ray.stages.fitting.plan import no_folds, parts_with
from emo_ray.stages.predict import TOGETHER, UNUSABLE, load_models
from emo_ray.stages.prepare import BAD_MEDIA, Prepared, prepare
from emo_ray.stages.teachers import Teacher, TeacherPredictions
from emo_ray.training import pseudo_label_policies as policies
from emo_ray.training.calibration import LEAST, MOST

VERSION = 1
REPORT, REFUSED = "report.json", "refused.csv"
_BINS = 20  # of the picture of confidences
_FLOAT = pa.float32()


@dataclass(frozen=True)
class PseudoLabelled:
    """Pseudo-labels: the folder of a round, with parts, report and lists, and the content of the report."""

    path: Path
    report: dict

    def summary(self) -> dict:
        """What a user wants to know at a glance."""
        about = {key: self.report[key] for key in ("clips", "accepted", "reasons", "broken_media", "classes", "notes")}
        shown = self.report["calibration"][-1]
        return about | {"calibration_error": shown["ece"], "round": self.report["round"]}

    def show(self) -> None:
        """The tables, for people."""
        show(pseudo_labels.tables(self.report), self.report["notes"], self.path / "report.html")


@dataclass(frozen=True)
class Pool:
    """N unlabelled clips in the order of the parts and their rows: a few numbers each."""

    parts: dict[str, slice]  # the rows of each part
    confidence_N: np.ndarray  # calibrated, float32; NaN where nothing is usable
    prediction_N: np.ndarray  # int16; -1 there
    against_N: np.ndarray  # what speaks against a clip however sure the teachers are, else None
    broken: list[tuple[str, str, str]]  # clip_id, modality, status


def pseudo_label(config: Config) -> PseudoLabelled:
    """Pseudo-labels of the unlabelled clips of `config.data`, by `checkpoint` (and `pseudo.teachers`).

    Raises ValueError where there is no model or no unlabelled clip, and, when all is done and written, where more than
    `pseudo.max_bad_fraction` of the clips have broken media.
    """
    if config.checkpoint is None:
        raise ValueError(
            "found no checkpoint, expected the teacher's folder: set checkpoint=FOLDER (jobs/train.py makes one)"
        )
    no_folds(config)
    paths = [Path(path).absolute() for path in (config.checkpoint, *config.pseudo.teachers)]
    config = of_checkpoint(config, paths[0])
    labels = load_models(config, paths[0]).labels  # says what is wrong with a checkpoint before anything else is done
    policies.thresholds(config.pseudo, np.zeros(0, np.float32), np.zeros(0, int), labels)  # and with the policy
    prepared = prepare(config)
    pool = {clip.clip_id for clip in prepared.clips if clip.split == "unlabelled"}
    if not pool:
        raise ValueError(f"{config.data.manifest}: found no unlabelled clips, expected some to label")
    teachers = answering.gather(config, paths, prepared, pool)
    folder = _folder(config, teachers, prepared)
    parts = parts_with(prepared, pool)
    if not store.is_complete(folder) or not all((folder / name).exists() for name in parts):
        _make(config, teachers, prepared, pool, folder)
    result = PseudoLabelled(folder, json.loads((folder / REPORT).read_text(encoding="utf-8")))
    _check_media(config, result)
    return result


def _folder(config: Config, teachers: Sequence[Teacher], prepared: Prepared) -> Path:
    """Named after everything that decides a row."""
    settings = config.pseudo.model_dump(exclude={"teachers", "max_bad_fraction", "round"})
    decides = [[teacher.made.decides, sorted(teacher.unseen)] for teacher in teachers]
    key = store.digest(VERSION, settings, decides, prepared.path.name)
    return cluster.store_root(config) / "pseudo_labels" / key / f"round-{config.pseudo.round}"


def _make(config: Config, teachers: Sequence[Teacher], prepared: Prepared, pool: Collection[str], folder: Path) -> None:
    """Select, write the parts that are missing, then everything about them, `meta.json` last."""
    (folder / store.META).unlink(missing_ok=True)  # where somebody has taken parts away
    teachers, about = answering.calibrate(teachers, prepared)
    leaks = leaking(prepared, pool)
    clips = weighed(config, teachers, parts_with(prepared, pool), pool, leaks)
    labelled_K = _labelled(prepared)
    most = int(config.pseudo.max_ratio * labelled_K.sum()) if labelled_K.sum() else None
    given = config.pseudo, clips.confidence_N, clips.prediction_N, clips.against_N, prepared.labels, most
    reason_N, threshold_K = policies.select(*given)
    with progress("writing pseudo-labels", len(reason_N), "clips") as advance:
        for part, rows in clips.parts.items():
            if not (folder / part).exists():
                table = _table(
                    config, teachers, answering.predictions_of(teachers, part, pool), reason_N[rows], threshold_K
                )
                store.write_parquet(folder / part, table, rows_per_group=2**12)
            advance(rows.stop - rows.start)
    report = _report(config, prepared, about, clips, reason_N, threshold_K)
    report["notes"] += _notes(report, prepared, pool, most)
    _write_list(folder / REFUSED, ["clip_id", "reason"], sorted(leaks.items()))
    file_of = {c.clip_id: {"video": c.video, "audio": c.audio or c.video} for c in prepared.clips if c.clip_id in pool}
    broken = [(*row, file_of[row[0]].get(row[1]) or "") for row in clips.broken]
    _write_list(folder / BAD_MEDIA, ["clip_id", "modality", "status", "file"], broken)
    store.write_text(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
    pseudo_labels.write_html(report, folder)
    meta = {"kind": "pseudo-labels", "version": VERSION, "round": config.pseudo.round, "labels": prepared.labels}
    meta |= {"clips": report["clips"], "accepted": report["accepted"], "teachers": [t.digest for t in teachers]}
    store.write_text(folder / store.META, json.dumps(meta, indent=1, ensure_ascii=False))


def leaking(prepared: Prepared, pool: Collection[str]) -> dict[str, str]:
    """Why an unlabelled clip would tell what is in validation or test: its speaker or its content; by clip_id.

    Content is the decoded frames, of clips without them the sound, so that copies, other names and other containers
    are known again.
    """
    judged = {clip.clip_id: clip.split for clip in prepared.clips if clip.split in ("validation", "test")}
    split_of = {clip.speaker: clip.split for clip in prepared.clips if clip.clip_id in judged and clip.speaker}
    reasons = {
        clip.clip_id: f"speaker in {split_of[clip.speaker]}"
        for clip in prepared.clips
        if clip.clip_id in pool and clip.speaker in split_of
    }
    rows, twin_of = list(_columns(prepared.ledger, "clip_id", *CONTENT)), {}
    for clip_id, *digests in sorted((row for row in rows if row[0] in judged), key=lambda row: row[0]):
        for digest in filter(None, digests):
            twin_of.setdefault(digest, clip_id)
    for clip_id, video, audio in rows:
        twin = twin_of.get(video or audio)
        if clip_id in pool and twin:
            reasons[clip_id] = f"same content as clip {twin} of {judged[twin]}"
    return reasons


def weighed(
    config: Config, teachers: Sequence[Teacher], parts: Sequence[str], pool: Collection[str], leaks: Mapping[str, str]
) -> Pool:
    """What all teachers together say of the clips in `pool`, and what speaks against a clip from the start."""
    found, slices, broken, start = [], {}, [], 0
    with progress("weighing answers", len(pool), "clips") as advance:
        for part in parts:
            own = answering.predictions_of(teachers, part, pool)
            ids = own.table["clip_id"].to_pylist()
            found.append((own.confidence_B, own.prediction_B.astype(np.int16), _against(config, own, ids, leaks)))
            for name in MODALITIES:
                statuses = zip(ids, own.table[f"{name}_status"].to_pylist(), strict=True)
                broken += [(clip_id, name, status) for clip_id, status in statuses if _is_broken(status)]
            slices[part] = slice(start, start := start + len(ids))
            advance(len(ids))
    return Pool(slices, *(np.concatenate(columns) for columns in zip(*found, strict=True)), broken)


def _against(config: Config, own: TeacherPredictions, ids: Sequence[str], leaks: Mapping[str, str]) -> np.ndarray:
    """What speaks against each of these clips, or None; of several reasons the last found here."""
    agree_B = policies.teachers_agree(own.votes_TB, own.prediction_B, config.pseudo.agreement)
    same_B = policies.modalities_agree(own.votes_MB, own.prediction_B, config.pseudo.agreeing_modalities)
    against_B = np.full(len(ids), None, object)
    against_B[~same_B] = policies.MODALITIES_DISAGREE
    against_B[~agree_B] = policies.DISAGREE
    against_B[own.prediction_B < 0] = UNUSABLE
    for row, clip_id in enumerate(ids):
        against_B[row] = leaks.get(clip_id, against_B[row])
    return against_B


def _is_broken(status: str) -> bool:
    """Not what was never there, such as the sound of a silent film."""
    return "corrupt" in status or status == "missing: no such file"


def _labelled(prepared: Prepared) -> np.ndarray:
    """The labelled training clips of each class."""
    counts = Counter(clip.label for clip in prepared.clips if clip.split == "train" and clip.label is not None)
    return np.array([counts[label] for label in prepared.labels])


def _table(
    config: Config, teachers: Sequence[Teacher], own: TeacherPredictions, reason_B: np.ndarray, threshold_K: np.ndarray
) -> pa.Table:
    """A row a clip: the columns of its predictions, as all teachers give them, and what became of it.

    `confidence` is that of the calibrated probabilities, which is compared with the threshold.
    """
    labels, prediction_B = teachers[0].made.decides["labels"], own.prediction_B
    usable_B = prediction_B >= 0

    def listed(values_BK: np.ndarray) -> pa.Array:
        known = ~np.isnan(values_BK).any(axis=1)
        return pa.array([v if k else None for v, k in zip(values_BK.tolist(), known, strict=True)], pa.list_(_FLOAT))

    changed = {
        **{f"has_{name}": pa.array(votes_B >= 0) for name, votes_B in zip(MODALITIES, own.votes_MB, strict=True)},
        "status": pa.array(["ok" if usable else UNUSABLE for usable in usable_B]),
        TOGETHER: listed(own.probability_BK),
        "prediction": pa.array([labels[k] if k >= 0 else None for k in prediction_B], pa.string()),
        "confidence": pa.array(own.confidence_B, _FLOAT, mask=~usable_B),
        **{column: listed(values_BK) for column, values_BK in own.alone_BK.items()},
    }
    columns = {name: changed.get(name, own.table[name]) for name in own.table.column_names} | {
        "calibrated": listed(own.calibrated_BK),
        "accepted": pa.array(np.equal(reason_B, None).astype(bool)),
        "reason": pa.array(reason_B.tolist(), pa.string()),
        "threshold": pa.array(threshold_K[prediction_B], _FLOAT, mask=~usable_B),
        "round": pa.array(np.full(len(reason_B), config.pseudo.round, np.int32)),
        "teacher": pa.array([",".join(teacher.digest for teacher in teachers)] * len(reason_B), pa.string()),
    }
    return pa.table(columns, metadata={"labels": json.dumps(list(labels), ensure_ascii=False)})


def _report(
    config: Config, prepared: Prepared, about: list[dict], clips: Pool, reason_N: np.ndarray, threshold_K: np.ndarray
) -> dict:
    """What pseudo_report draws."""
    accepted_N, usable_N = np.equal(reason_N, None).astype(bool), clips.prediction_N >= 0
    classes, edges = len(prepared.labels), np.linspace(0, 1, _BINS + 1)
    counts = {
        "labelled": _labelled(prepared),
        "predicted": np.bincount(clips.prediction_N[usable_N], minlength=classes),
        "accepted": np.bincount(clips.prediction_N[accepted_N], minlength=classes),
    }
    groups = {"accepted": accepted_N, "refused": usable_N & ~accepted_N}
    return {
        "round": config.pseudo.round,
        "policy": config.pseudo.policy,
        "labels": list(prepared.labels),
        "clips": len(reason_N),
        "accepted": int(accepted_N.sum()),
        "reasons": dict(Counter(_kind(reason) for reason in reason_N if reason is not None).most_common()),
        "thresholds": dict(zip(prepared.labels, map(float, threshold_K), strict=True)),
        "classes": {name: dict(zip(prepared.labels, own.tolist(), strict=True)) for name, own in counts.items()},
        "drift": dict(zip(prepared.labels, policies.drift(counts["labelled"], counts["accepted"]), strict=True)),
        "calibration": about,
        "confidence": {
            "edges": edges.tolist(),
            **{name: np.histogram(clips.confidence_N[own_N], edges)[0].tolist() for name, own_N in groups.items()},
        },
        "broken_media": len({clip_id for clip_id, *_ in clips.broken}),
        "notes": list(prepared.notes),
    }


def _kind(reason: str) -> str:
    """A reason without the clip that it names."""
    start, _, clip = reason.partition(" as clip ")
    return f"{start} as a clip of {clip.rsplit(' of ', 1)[-1]}" if clip else reason


def _notes(report: dict, prepared: Prepared, pool: Collection[str], most: int | None) -> list[str]:
    notes = []
    for own in report["calibration"]:
        if own["n"] == 0:
            notes.append(f"{own['checkpoint']}: no labelled validation clip to calibrate it on; its temperature is 1")
        elif not 1.01 * LEAST < own.get("temperature", 1.0) < 0.99 * MOST:
            notes.append(f"{own['checkpoint']}: its temperature is the last one tried; {own['n']} clips may be too few")
    for label, what in report["drift"].items():
        if what:
            counts = report["classes"]
            shares = [counts[k][label] / sum(counts[k].values()) for k in ("accepted", "labelled")]
            found = f"{100 * shares[0]:.1f} % of the accepted clips and {100 * shares[1]:.1f} % of the labelled ones"
            notes.append(f"warning: {label!r} {what}: {found} (see pseudo.policy)")
    if not report["accepted"]:
        notes.append("warning: no clip was accepted: see the reasons, and pseudo.floor or pseudo.threshold")
    if most is None:
        notes.append("the corpus has no labelled training clips: nothing to cap or to compare classes with")
    nameless = [clip_id for clip_id, *digests in _columns(prepared.ledger, "clip_id", *CONTENT) if not any(digests)]
    if unknown := sum(clip_id in pool for clip_id in nameless):
        notes.append(f"{unknown} clips have neither pictures nor sound by which validation and test could know them")
    return notes


def _columns(table: pa.Table, *names: str) -> zip:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _write_list(path: Path, header: Sequence[str], rows: Collection[Sequence[str]]) -> None:
    with store.renamed(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def _check_media(config: Config, result: PseudoLabelled) -> None:
    """Say how many clips have broken media. Raises ValueError where they are too many."""
    broken, clips = result.report["broken_media"], result.report["clips"]
    if not broken:
        return
    found = f"{broken} of {clips} unlabelled clips have broken media (listed in {result.path / BAD_MEDIA})"
    if broken > config.pseudo.max_bad_fraction * clips:
        raise ValueError(
            f"found {found}, expected at most {100 * config.pseudo.max_bad_fraction:g} %: mend them, or raise "
            f"pseudo.max_bad_fraction; the pseudo-labels of all others are in {result.path}"
        )
    say(found)
