"""What a job writes of its predictions: rows with their media and labels, the same as CSV, cards, and timelines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from emo_ray import durable, parquet, store
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables, shards
from emo_ray.data.manifest import Clip
from emo_ray.inference.classifier import TOGETHER
from emo_ray.models.checkpoint_files import read_calibration, read_familiarity
from emo_ray.reports.cards import Answer
from emo_ray.reports.cards_page import CARDS_PER_PAGE, MOST_PAGES, CardSet
from emo_ray.reports.wording import plural
from emo_ray.stages import cards, timelines
from emo_ray.stages.cards import HOW_TO_READ, CardSource, calibration_words
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.prediction_rows import matrix
from emo_ray.stages.timelines import Recording

VERSION = 3  # of the files and of the columns that rows get here
NAME = "predictions"
CSV, PAGE = f"{NAME}.csv", f"{NAME}.html"


@dataclass(frozen=True)
class PredictedCorpus:
    """Clips with their predictions, part by part, and what is known of them beside those."""

    parts: Path  # the folder of the predictions that all runs of the model share
    plan: ShardPlan
    clips: Sequence[Clip]  # with their transcripts
    recordings: Sequence[Recording]
    labels: Sequence[str]
    checkpoint: Path

    @property
    def has_people(self) -> bool:
        """Whether a row is of a person in a clip."""
        return self.plan.media.face.which == "all"

    @cached_property
    def clip_of(self) -> dict[str, Clip]:
        """The clips by clip_id."""
        return {clip.clip_id: clip for clip in self.clips}

    @cached_property
    def temperature(self) -> float | None:
        """What calibrates the model's probabilities; None where its training had no clips to fit it on."""
        fitted = read_calibration(self.checkpoint)
        return fitted and fitted["temperature"]

    @cached_property
    def bound_of(self) -> dict[str, float]:
        """How far training clips are from their mean, by modality."""
        return read_familiarity(self.checkpoint)

    def decides(self) -> dict[str, Any]:
        """What decides the files beside the predictions."""
        clips = [[c.clip_id, c.video, c.audio, c.text, c.label] for c in self.clips]
        about = [VERSION, self.temperature, self.bound_of, self.checkpoint.name, store.digest(clips)]
        return {"files": store.digest(about), **timelines.decides(self.recordings)}


def write(folder: Path, corpus: PredictedCorpus) -> list[Answer]:
    """Write all files of a corpus into a folder; the answers that a person should look at first."""
    first: list[Answer] = []
    most = CARDS_PER_PAGE * MOST_PAGES
    lines: dict[tuple[str, float, str], list[Any]] = {}  # of the CSV file, by file, start in seconds and clip_id
    for name in corpus.plan.clips_of:
        rows = _rows(corpus, name)
        parquet.write(folder / name, rows, parquet.LIGHT_ROWS)
        answers = _answers(rows, corpus)
        first.extend(answers)
        if len(first) > 2 * most:  # and not part by part: sorting takes longer than the rest then
            first = _first(first, most)
        for answer in answers:
            start_s = corpus.clip_of[answer.clip_id].start_s or 0.0
            lines[answer.file, start_s, answer.clip_id] = _csv_line(answer, corpus)
    durable.write_csv(folder / CSV, [_header(corpus), *(lines[place] for place in sorted(lines))])
    first = _first(first, most)
    if corpus.recordings:
        timelines.write(folder, corpus.recordings, corpus.plan, corpus.labels, corpus.checkpoint.name)
    cards.write(folder, _about(corpus, len(first)), first, _source(corpus))
    return first


def first_answers(folder: Path, corpus: PredictedCorpus, most: int) -> list[Answer]:
    """What the model says of the clips that a person should look at first, from a folder that is written."""
    first: list[Answer] = []
    for name in corpus.plan.clips_of:
        first = _first([*first, *_answers(parquet.read(folder / name), corpus)], most)
    return first


def _first(answers: list[Answer], most: int) -> list[Answer]:
    return sorted(answers, key=lambda answer: (-answer.doubt, answer.clip_id))[:most]


def _answers(rows: pa.Table, corpus: PredictedCorpus) -> list[Answer]:
    return cards.answers(rows, corpus.labels, corpus.clip_of, corpus.temperature, corpus.bound_of)


def _rows(corpus: PredictedCorpus, name: str) -> pa.Table:
    """A part's rows with `file` and `truth`, and `calibrated` probabilities, of which the highest is `confidence`.

    With people and recordings also the columns of those.
    """
    rows = parquet.read(corpus.parts / name)
    if corpus.has_people:
        rows = timelines.with_people(rows, shards.ledger(corpus.plan.folder / name))
    if corpus.recordings:
        rows = timelines.with_spans(rows, corpus.recordings)
    clips = [corpus.clip_of[clip_id] for clip_id in rows["clip_id"].to_pylist()]
    calibrated = _calibrated(rows, corpus)
    confidence = [None if values is None else max(values) for values in calibrated]
    columns = {
        "file": pa.array([clip.file for clip in clips], pa.string()),
        "truth": pa.array([clip.label for clip in clips], pa.string()),
        "confidence": pa.array(confidence, pa.float32()),
    }
    if corpus.temperature is not None:
        columns["calibrated"] = pa.array(calibrated, pa.list_(pa.float32()))
    for column, values in columns.items():
        rows = clip_tables.with_column(rows, column, values)
    return rows


def _calibrated(rows: pa.Table, corpus: PredictedCorpus) -> list[list[float] | None]:
    """The probabilities at the model's temperature; as they are where it has none."""
    return cards.as_rows(matrix(rows[TOGETHER], len(corpus.labels)), corpus.temperature)


def _header(corpus: PredictedCorpus) -> list[str]:
    spans = ["start_s", "end_s"] if corpus.recordings else []
    probabilities = [f"p_{label}" for label in corpus.labels]
    statuses = [f"{name}_status" for name in MODALITIES]
    alone = [f"{name}_alone" for name in MODALITIES]
    return ["clip_id", "file", *spans, "truth", "prediction", "confidence", *probabilities, *alone, *statuses, "note"]


def _csv_line(answer: Answer, corpus: PredictedCorpus) -> list[Any]:
    """The line of a clip; probabilities are calibrated where the model has a temperature."""
    clip = corpus.clip_of[answer.clip_id]
    return [
        answer.clip_id,
        answer.file,
        *([clip.start_s, clip.end_s] if corpus.recordings else []),
        answer.truth,
        answer.prediction,
        round(answer.confidence, 4) if answer.ranked else None,
        *([round(p, 4) for p in answer.together] if answer.together else [None] * len(corpus.labels)),
        *(answer.top(answer.alone[name]) for name in MODALITIES),
        *(answer.statuses[name] for name in MODALITIES),
        "; ".join(answer.notes),
    ]


def _source(corpus: PredictedCorpus) -> CardSource:
    plan = corpus.plan
    return CardSource(plan.folder, plan.part_of, corpus.clip_of, plan.media.face.margin, corpus.has_people)


def _about(corpus: PredictedCorpus, shown: int) -> CardSet:
    count = len(corpus.clips)
    beyond = (
        f" The {shown} of them that a person should look at first are shown; {CSV} has all." if shown < count else ""
    )
    order = (
        "What to look at first: the smallest leads of the first class over the second, modalities that alone say "
        "another class, and broken media."
    )
    paragraphs = [f"{HOW_TO_READ} {calibration_words(corpus.temperature)}", order]
    if not corpus.has_people:
        paragraphs.append(
            "A label that you choose on a card goes into a CSV file that data.manifest takes: so you label where the "
            "model is unsure."
        )
    return CardSet(
        NAME,
        "Predictions",
        f"{plural(count, 'row' if corpus.has_people else 'clip')} by {corpus.checkpoint.name}.{beyond}",
        () if corpus.has_people else corpus.labels,
        paragraphs,
        "probabilities say what the model takes a clip for, not what a person feels",
    )
