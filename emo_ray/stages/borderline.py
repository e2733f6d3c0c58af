"""Unlabelled clips nearest to the threshold of acceptance, as cards: what a person should label next."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from emo_ray import parquet
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import Prepared
from emo_ray.reports.cards import Answer
from emo_ray.reports.cards_page import CARDS_PER_PAGE, CardSet, file_name
from emo_ray.reports.wording import percent, plural
from emo_ray.stages import cards
from emo_ray.stages.cards import HOW_TO_READ, CardSource

NAME = "borderline"
PAGE = file_name(NAME, 1)


def nearest(
    confidence_N: np.ndarray, prediction_N: np.ndarray, threshold_K: np.ndarray, excluded_N: np.ndarray
) -> np.ndarray:
    """The clips whose confidence is nearest to the threshold of their class, nearest first, at most a page of them.

    `prediction_N` is -1 for clips without prediction, which are left out like those that are excluded (bool).
    """
    distance_N = np.abs(confidence_N - np.where(prediction_N < 0, np.nan, threshold_K[prediction_N]))
    distance_N[excluded_N] = np.nan
    order_N = np.argsort(distance_N, kind="stable")  # NaN comes last
    return order_N[: min(CARDS_PER_PAGE, int(np.isfinite(distance_N).sum()))]


def write(
    folder: Path, prepared: Prepared, clips: Collection[Clip], rows: Sequence[tuple[str, int]], margin: float,
    temperatures: Sequence[float], bound_of: Mapping[str, float],
) -> Path:  # fmt: skip
    """The page of these rows, each of which is the name of a part in a folder of pseudo-labels and a place in it.

    `clips` are those of the corpus with their transcripts; `margin` is that of media.face. `temperatures` are those
    of the teachers: only with one teacher are its probabilities shown calibrated, not with the means of several.
    `bound_of` says by modality how far that one's training clips are from their mean (empty: no clip is unfamiliar).
    """
    temperature = temperatures[0] if len(temperatures) == 1 else None
    clip_of = {clip.clip_id: clip for clip in clips}
    parts = sorted({part for part, _ in rows})
    answers_of = {name: _answers(folder / name, prepared.labels, clip_of, temperature, bound_of) for name in parts}
    probabilities = cards.calibration_words(temperature)
    if temperature is None:
        probabilities = (
            "Probabilities are means of the teachers before calibration; the confidence in the notes is after."
        )
    shown = [answers_of[part][row] for part, row in rows]
    about = CardSet(
        NAME,
        "Clips to label next",
        f"{plural(len(shown), 'unlabelled clip')} whose confidence is nearest to the threshold of acceptance: a "
        "person's label says most about these.",
        prepared.labels,
        [
            f"{HOW_TO_READ} {probabilities}",
            "Choose the right labels, download the CSV file, and train on it beside the labelled clips "
            "(docs/pseudo-labels.md).",
        ],
        "probabilities say what the teachers take a clip for, not what a person feels",
        "nearest to the threshold first",
    )
    source = CardSource.of(prepared, [clip_of[answer.clip_id] for answer in shown], margin)
    return cards.write(folder, about, shown, source)[0]


def _answers(
    part: Path, labels: Sequence[str], clip_of: Mapping[str, Clip], temperature: float | None,
    bound_of: Mapping[str, float],
) -> list[Answer]:  # fmt: skip
    """The rows of a part, with what became of them as a note."""
    rows = parquet.read(part)
    decided = rows.select(["prediction", "confidence", "threshold", "accepted", "reason"]).to_pylist()
    return [
        cards.with_note(answer, _note(row)) if row["prediction"] is not None else answer
        for answer, row in zip(cards.answers(rows, labels, clip_of, temperature, bound_of), decided, strict=True)
    ]


def _note(row: Mapping[str, object]) -> str:
    confidence, threshold = (f"{percent(float(str(row[name])))} %" for name in ("confidence", "threshold"))
    outcome = "accepted" if row["accepted"] else f"refused: {row['reason']}"
    return f"confidence {confidence}, the threshold of {row['prediction']} is {threshold}: {outcome}"
