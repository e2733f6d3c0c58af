"""pseudo_label: a teacher and the unlabelled clips of a corpus to the labels that may be trained on.

Predictions are made part by part and kept, so a killed run goes on where it stopped. What is selected depends on all
clips, of which the driver holds a few numbers each; rows are read and written part by part.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import cluster, durable, parquet, store
from emo_ray.config import Config, settings_of
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import BAD_MEDIA, Prepared
from emo_ray.data.status import is_broken
from emo_ray.inference.classifier import TOGETHER, load_models
from emo_ray.inference.encoders import of_checkpoint
from emo_ray.models.checkpoint_files import folder_of, read_familiarity
from emo_ray.progress import measured, progress, say
from emo_ray.reports import pseudo_labels as report_page
from emo_ray.reports.pseudo_labels import Calibration, PseudoLabelReport
from emo_ray.stages import borderline
from emo_ray.stages.chat import chat_labels
from emo_ray.stages.corpus import Corpus, open_corpus
from emo_ray.stages.fitting.plan import check_no_folds
from emo_ray.stages.leaks import leaking, unrecognisable
from emo_ray.stages.prediction_rows import UNUSABLE
from emo_ray.stages.result import Result
from emo_ray.stages.teachers import Teacher, TeacherPredictions, calibrate, gather, predictions_of
from emo_ray.training import pseudo_label_policies as policies
from emo_ray.training.calibration import LEAST, MOST

VERSION = 3  # 2: a teacher without clips to calibrate it on has its checkpoint's temperature; 3: rows as predict's
REPORT, REFUSED = "report.json", "refused.csv"
_BINS = 20  # of the picture of confidences
_FLOAT = pa.float32()


@dataclass(frozen=True)
class Pool:
    """N unlabelled clips in the order of the parts and their rows: a few numbers each."""

    parts: dict[str, slice]  # the rows of each part
    confidence_N: np.ndarray  # calibrated, float32; NaN where nothing is usable
    prediction_N: np.ndarray  # int16; -1 there
    against_N: np.ndarray  # what speaks against a clip however sure the teachers are, else None
    broken: list[tuple[str, str, str]]  # clip_id, modality, status
    chat_N: np.ndarray  # the class that a chat model gives; -1 where it gives none


def pseudo_label(config: Config, corpus: Corpus | None = None) -> Result:
    """Pseudo-labels of the unlabelled clips of a corpus, by `checkpoint` (and `pseudo.teachers`).

    `corpus` is by default the one that `config.data` names. Raises ValueError where there is no model or no unlabelled
    clip, and, when all is done and written, where more than `pseudo.max_bad_fraction` of the clips have broken media.
    """
    first = folder_of(config)
    check_no_folds(config)
    paths = [first, *(Path(path).absolute() for path in config.pseudo.teachers)]
    config = of_checkpoint(config, paths[0])
    labels = load_models(config, paths[0]).labels  # says what is wrong with a checkpoint before anything else is done
    policies.thresholds(config.pseudo, np.zeros(0, np.float32), np.zeros(0, int), labels)  # and with the policy
    chat = chat_labels.of_teacher(config, labels)
    corpus = corpus or open_corpus(config, labelled_only=False)
    prepared = corpus.prepared
    pool = {clip.clip_id for clip in prepared.clips if is_unlabelled(clip)}
    if not pool:
        raise ValueError(f"{config.data.manifest}: found no unlabelled clips, expected some to label")
    teachers = gather(config, paths, corpus, pool)
    folder = _folder(config, teachers, prepared)
    parts = prepared.parts_with(pool)
    if not store.is_complete(folder) or store.missing(folder, parts):
        _write(config, teachers, corpus, pool, chat, folder)
    store.check_files(folder)
    content = store.read_json(folder / REPORT)
    measured("accepted_pseudo_labels", content["accepted"])
    _check_media(config, folder, content)
    lines = [*content["notes"], f"pictures and details: {folder / report_page.PAGE}"]
    lines.append(f"clips to label next: {folder / borderline.PAGE}")
    return Result(folder, content, report_page.tables(content), lines)


def is_unlabelled(clip: Clip) -> bool:
    """Whether the clip is one that a teacher may label."""
    return clip.split == "unlabelled"


def _folder(config: Config, teachers: Sequence[Teacher], prepared: Prepared) -> Path:
    """Named after everything that decides a row."""
    decides = [[teacher.predictions.decides, sorted(teacher.unseen)] for teacher in teachers]
    path = config.pseudo.chat_labels
    chat_parts = [{"chat_labels": store.digest_path(Path(path))}] if path else []
    key = store.digest(VERSION, settings_of(config, "pseudo_labels"), decides, prepared.path.name, *chat_parts)
    return cluster.store_root(config) / "pseudo_labels" / key / f"round-{config.pseudo.round}"


def _write(
    config: Config, teachers: Sequence[Teacher], corpus: Corpus, pool: Collection[str], chat: Mapping[str, str] | None,
    folder: Path,
) -> None:  # fmt: skip
    """Select, write the parts that are missing, then everything about them, `meta.json` last.

    Parts stay in the folder as they come, unlike the content of other artefacts, so that a killed run keeps them.
    """
    prepared = corpus.prepared
    store.remove(folder / store.META)  # where somebody has taken parts away
    teachers, calibrations = calibrate(teachers, prepared)
    leaks = leaking(prepared, pool)
    clips = weighed(config, teachers, prepared.parts_with(pool), pool, leaks, chat)
    labelled_K = _labelled(prepared)
    most = int(config.pseudo.max_ratio * labelled_K.sum()) if labelled_K.sum() else None
    reason_N, threshold_K = policies.select(
        config.pseudo, clips.confidence_N, clips.prediction_N, clips.against_N, prepared.labels, most
    )
    with progress("writing pseudo-labels", len(reason_N), "clips") as advance:
        for part, rows in clips.parts.items():
            if not store.exists(folder / part):
                predictions = predictions_of(teachers, part, pool)
                table = _table(config, teachers, predictions, reason_N[rows], threshold_K)
                parquet.write(folder / part, table, parquet.LIGHT_ROWS)
            advance(rows.stop - rows.start)
    report = _report(config, prepared, calibrations, clips, reason_N, threshold_K)
    report["notes"] += _notes(report, prepared, pool, most)
    if chat is not None:
        report["notes"].append(_chat_note(clips))
    durable.write_csv(folder / REFUSED, [["clip_id", "reason"], *sorted(leaks.items())])
    file_of = {c.clip_id: {"video": c.video, "audio": c.audio or c.video} for c in prepared.clips if c.clip_id in pool}
    broken = [(*row, file_of[row[0]].get(row[1]) or "") for row in clips.broken]
    durable.write_csv(folder / BAD_MEDIA, [["clip_id", "modality", "status", "file"], *broken])
    durable.write_json(folder / REPORT, report)
    report_page.write(report, folder)
    bound_of = read_familiarity(teachers[0].path) if len(teachers) == 1 else {}
    _write_borderline(config, corpus, clips, report, set(leaks.values()), bound_of, folder)
    meta = {"kind": "pseudo-labels", "version": VERSION, "round": config.pseudo.round, "labels": prepared.labels}
    meta |= {"clips": report["clips"], "accepted": report["accepted"], "teachers": [t.digest for t in teachers]}
    store.write_meta(folder, meta)


def _write_borderline(
    config: Config, corpus: Corpus, clips: Pool, report: PseudoLabelReport, leaks: set[str],
    bound_of: Mapping[str, float], folder: Path,
) -> None:  # fmt: skip
    """Write the page of the clips that a person should label next, without any that validation or test know.

    `leaks` are the reasons against those; `bound_of` says what is familiar to the teacher, see `borderline.write`.
    """
    leaking_N = np.array([against in leaks for against in clips.against_N], bool)
    threshold_K = np.array([*report["thresholds"].values()])
    temperatures = [change["temperature"] for change in report["calibration"] if "temperature" in change]
    nearest_M = borderline.nearest(clips.confidence_N, clips.prediction_N, threshold_K, leaking_N)
    part_of = [(part, row) for part, rows in clips.parts.items() for row in range(rows.stop - rows.start)]
    prepared = corpus.prepared
    rows = [part_of[i] for i in nearest_M]
    with_words = corpus.texts.in_clips(prepared.clips)
    borderline.write(folder, prepared, with_words, rows, config.media.face.margin, temperatures, bound_of)


def weighed(
    config: Config, teachers: Sequence[Teacher], parts: Sequence[str], pool: Collection[str], leaks: Mapping[str, str],
    chat: Mapping[str, str] | None = None,
) -> Pool:  # fmt: skip
    """What all teachers together say of the clips in `pool`, and what speaks against a clip from the start."""
    class_of = {} if chat is None else {i: teachers[0].labels.index(label) for i, label in chat.items()}
    slices: dict[str, slice] = {}
    broken: list[tuple[str, str, str]] = []
    columns = []
    start = 0
    with progress("weighing predictions", len(pool), "clips") as advance:
        for part in parts:
            predictions = predictions_of(teachers, part, pool)
            ids = predictions.table["clip_id"].to_pylist()
            chat_B = np.array([class_of.get(clip_id, -1) for clip_id in ids], int)
            against_B = _against(config, predictions, ids, leaks, chat_B)
            columns.append((predictions.confidence_B, predictions.prediction_B.astype(np.int16), against_B, chat_B))
            for name in MODALITIES:
                statuses = zip(ids, predictions.table[f"{name}_status"].to_pylist(), strict=True)
                broken += [(clip_id, name, status) for clip_id, status in statuses if is_broken(status)]
            slices[part] = slice(start, start + len(ids))
            start += len(ids)
            advance(len(ids))
    confidence_N, prediction_N, against_N, chat_N = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Pool(slices, confidence_N, prediction_N, against_N, broken, chat_N)


def _against(
    config: Config, predictions: TeacherPredictions, ids: Sequence[str], leaks: Mapping[str, str], chat_B: np.ndarray
) -> np.ndarray:
    """What speaks against each of these clips, or None; of several reasons the last one that is checked here."""
    prediction_B = predictions.prediction_B
    votes_TB = np.vstack([predictions.votes_TB, chat_B])
    teachers_agree_B = policies.teachers_agree(votes_TB, prediction_B, config.pseudo.agreement)
    modalities_agree_B = policies.modalities_agree(
        predictions.votes_MB, prediction_B, config.pseudo.agreeing_modalities
    )
    against_B = np.full(len(ids), None, object)
    against_B[~modalities_agree_B] = policies.MODALITIES_DISAGREE
    against_B[~teachers_agree_B] = policies.DISAGREE
    if config.pseudo.agree_with == "chat":
        against_B[chat_B != prediction_B] = policies.CHAT_DISAGREES
        against_B[chat_B < 0] = policies.NO_CHAT_LABEL
    against_B[prediction_B < 0] = UNUSABLE
    for row, clip_id in enumerate(ids):
        against_B[row] = leaks.get(clip_id, against_B[row])
    return against_B


def _labelled(prepared: Prepared) -> np.ndarray:
    """The labelled training clips of each class."""
    counts = Counter(clip.label for clip in prepared.clips if clip.split == "train" and clip.label is not None)
    return np.array([counts[label] for label in prepared.labels])


def _table(
    config: Config, teachers: Sequence[Teacher], predictions: TeacherPredictions, reason_B: np.ndarray,
    threshold_K: np.ndarray,
) -> pa.Table:  # fmt: skip
    """A row a clip: the columns of its predictions, as all teachers give them, and what became of it.

    `confidence` is the calibrated probability of the predicted class, which is compared with the threshold.
    """
    labels = teachers[0].labels
    prediction_B = predictions.prediction_B
    usable_B = prediction_B >= 0

    def listed(values_BK: np.ndarray) -> pa.Array:
        known = ~np.isnan(values_BK).any(axis=1)
        return pa.array([v if k else None for v, k in zip(values_BK.tolist(), known, strict=True)], pa.list_(_FLOAT))

    votes_of = dict(zip(MODALITIES, predictions.votes_MB, strict=True))
    changed = {
        **{f"has_{name}": pa.array(votes_B >= 0) for name, votes_B in votes_of.items()},
        "status": pa.array(["ok" if usable else UNUSABLE for usable in usable_B]),
        TOGETHER: listed(predictions.probability_BK),
        "prediction": pa.array([labels[k] if k >= 0 else None for k in prediction_B], pa.string()),
        "confidence": pa.array(predictions.confidence_B, _FLOAT, mask=~usable_B),
        **{column: listed(values_BK) for column, values_BK in (predictions.alone_BK | predictions.without_BK).items()},
    }
    table = predictions.table
    columns = {name: changed.get(name, table[name]) for name in table.column_names} | {
        "calibrated": listed(predictions.calibrated_BK),
        "accepted": pa.array(_without_reason(reason_B)),
        "reason": pa.array(reason_B.tolist(), pa.string()),
        "threshold": pa.array(threshold_K[prediction_B], _FLOAT, mask=~usable_B),
        "round": pa.array(np.full(len(reason_B), config.pseudo.round, np.int32)),
        "teacher": pa.array([",".join(teacher.digest for teacher in teachers)] * len(reason_B), pa.string()),
    }
    return pa.table(columns, metadata=clip_tables.metadata_of(labels))


def _report(
    config: Config, prepared: Prepared, calibrations: list[Calibration], clips: Pool, reason_N: np.ndarray,
    threshold_K: np.ndarray,
) -> PseudoLabelReport:  # fmt: skip
    """The content of report.json: see `reports.pseudo_labels`."""
    accepted_N = _without_reason(reason_N)
    usable_N = clips.prediction_N >= 0
    classes = len(prepared.labels)
    edges = np.linspace(0, 1, _BINS + 1)
    counts = {
        "labelled": _labelled(prepared),
        "predicted": np.bincount(clips.prediction_N[usable_N], minlength=classes),
        "accepted": np.bincount(clips.prediction_N[accepted_N], minlength=classes),
    }
    accepted_counts, refused_counts = (
        np.histogram(clips.confidence_N[rows_N], edges)[0].tolist() for rows_N in (accepted_N, usable_N & ~accepted_N)
    )
    return {
        "round": config.pseudo.round,
        "policy": config.pseudo.policy,
        "labels": list(prepared.labels),
        "clips": len(reason_N),
        "accepted": int(accepted_N.sum()),
        "reasons": dict(Counter(_kind(reason) for reason in reason_N if reason is not None).most_common()),
        "thresholds": dict(zip(prepared.labels, map(float, threshold_K), strict=True)),
        "classes": {name: dict(zip(prepared.labels, n_K.tolist(), strict=True)) for name, n_K in counts.items()},
        "drift": dict(zip(prepared.labels, policies.drift(counts["labelled"], counts["accepted"]), strict=True)),
        "calibration": calibrations,
        "confidence": {
            "edges": edges.tolist(),
            "accepted": accepted_counts,
            "refused": refused_counts,
        },
        "broken_media": len({clip_id for clip_id, *_ in clips.broken}),
        "notes": list(prepared.notes),
    }


def _without_reason(reason_N: np.ndarray) -> np.ndarray:
    """Which clips are accepted, bool (N,): those that have no reason against them."""
    return np.array([reason is None for reason in reason_N], bool)


def _kind(reason: str) -> str:
    """A reason without the clip that it names."""
    start, _, clip = reason.partition(" as clip ")
    return f"{start} as a clip of {clip.rsplit(' of ', 1)[-1]}" if clip else reason


def _notes(report: PseudoLabelReport, prepared: Prepared, pool: Collection[str], most: int | None) -> list[str]:
    notes = []
    for change in report["calibration"]:
        name, clips = change["checkpoint"], change["n"]
        if clips == 0:
            temperature = f"its temperature is {change.get('temperature', 1.0):.3g}, which training fitted or 1"
            notes.append(f"{name}: no labelled validation clip to calibrate it on; {temperature}")
        elif not 1.01 * LEAST < change.get("temperature", 1.0) < 0.99 * MOST:
            notes.append(f"{name}: its temperature is the last one tried; {clips} clips may be too few")
    for label, drift in report["drift"].items():
        if drift:
            counts = report["classes"]
            accepted, labelled = (counts[k][label] / sum(counts[k].values()) for k in ("accepted", "labelled"))
            shares = f"{100 * accepted:.1f} % of the accepted clips and {100 * labelled:.1f} % of the labelled ones"
            notes.append(f"warning: {label!r} {drift}: {shares} (see pseudo.policy)")
    if not report["accepted"]:
        notes.append("warning: no clip was accepted: see the reasons, and pseudo.floor or pseudo.threshold")
    if most is None:
        notes.append("the corpus has no labelled training clips: nothing to cap or to compare classes with")
    if unknown := unrecognisable(prepared, pool):
        notes.append(f"{unknown} clips have neither pictures nor sound by which validation and test could know them")
    return notes


def _chat_note(clips: Pool) -> str:
    """How often the chat model says what the teachers say."""
    both_N = (clips.chat_N >= 0) & (clips.prediction_N >= 0)
    same = int((clips.chat_N == clips.prediction_N)[both_N].sum())
    return (
        f"{both_N.sum()} of {len(clips.chat_N)} clips have a chat model's label; the teachers agree with it on {same}"
    )


def _check_media(config: Config, folder: Path, report: PseudoLabelReport) -> None:
    """Say how many clips have broken media. Raises ValueError where they are too many."""
    broken, clips = report["broken_media"], report["clips"]
    if not broken:
        return
    sentence = f"{broken} of {clips} unlabelled clips have broken media (listed in {folder / BAD_MEDIA})"
    if broken > config.pseudo.max_bad_fraction * clips:
        raise ValueError(
            f"found {sentence}, expected at most {100 * config.pseudo.max_bad_fraction:g} %: mend them, or raise "
            f"pseudo.max_bad_fraction; the pseudo-labels of all others are in {folder}"
        )
    say(sentence)
