"""The table of floors: what classical classifiers reach on the features that the fusion head gets."""

from collections.abc import Mapping
from typing import TypedDict

from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import SUBSET_NAMES, percent, points


class FloorScores(TypedDict):
    """What the head and the floors reach on one subset of the modalities, as rates in [0, 1]."""

    floors: dict[str, dict[str, float]]  # name of a floor -> "waf", "accuracy"
    waf: float  # of the head, on the same clips
    accuracy: float
    best: str  # the floor with the highest WAF
    difference: float  # in WAF, of the head to it
    interval: list[float]  # the ends of the 95 % interval of the difference
    n: int


def table(floors: Mapping[str, FloorScores]) -> Table:
    """A row for each subset that has floors."""
    names = list(next(iter(floors.values()))["floors"])
    rows: list[list[str | Cell]] = []
    for subset, words in SUBSET_NAMES.items():
        if (scores := floors.get(subset)) is None:
            continue
        low, high = scores["interval"]
        rows.append(
            [
                words,
                percent(scores["waf"]),
                *(percent(scores["floors"][name]["waf"]) for name in names),
                f"{points(scores['difference'])} ({points(low)} to {points(high)})",
                str(scores["n"]),
            ]
        )
    note = (
        "Weighted F1 of the fusion head and of scikit-learn's classifiers on the same features and clips; the "
        "difference is to the best of them, with its 95 % interval (paired bootstrap)."
    )
    return Table("Classical floors", ["modalities", "ours", *names, "difference", "clips"], rows, note)


def floor_notes(floors: Mapping[str, FloorScores]) -> list[str]:
    """A warning that names the subsets on which a classical classifier is better beyond chance, if it is on any."""
    worse = {subset: scores["best"] for subset, scores in floors.items() if scores["interval"][1] < 0}
    where = ", ".join(f"{SUBSET_NAMES[subset]} ({best})" for subset, best in worse.items())
    return [f"warning: scikit-learn is better than the fusion head on {where}: see the floors"] if worse else []
