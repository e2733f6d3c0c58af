"""The content of an evaluation's report.json, and the sentences of verdict that its numbers allow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from emo_ray.config.model_settings import MODALITIES
from emo_ray.reports.floors import FloorScores, floor_notes
from emo_ray.reports.wording import SUBSET_NAMES, percent, plural, points
from emo_ray.training.bootstrap import FEW_SPEAKERS

REPORT, PREDICTIONS = "report.json", "predictions.parquet"  # in the folder of a report
MISTAKES = "mistakes"  # the first letters of its pages of cards
FEW_CLIPS = 20  # a class with fewer allows no conclusion
# What papers on a corpus report, by the importer of the corpus or a word in the name of its manifest.
CONVENTIONS = {
    "mer2024": "MER2024 is scored by WAF over its six classes",
    "mer": "the MER challenges are scored by WAF over six classes",
    "dfew": "DFEW is scored by UAR and WAR (here: accuracy)",
    "iemocap": "IEMOCAP is scored by UA (here: UAR) and WA (here: accuracy)",
    "meld": "MELD is scored by weighted F1 (here: WAF)",
    "ravdess": "RAVDESS is scored by accuracy and UAR",
}

# "waf", "accuracy", "uar", "macro_f1" in [0, 1]; "n": clips; "classes": that occur, and UAR and macro F1 are means over
Scores = dict[str, float]
Interval = list[float]  # the ends of the 95 % interval
When = Literal["before", "after"]  # temperature scaling
WHEN: tuple[When, When] = ("before", "after")


class Bins(TypedDict):
    """A reliability diagram over bins of confidence; None where a bin has no clips."""

    edges: list[float]
    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


class CalibrationChange(TypedDict):
    """How well confidence matches how often it is right, on n labelled clips (`training.calibration.change`)."""

    n: int
    ece: dict[When, float | None]  # expected calibration error
    nll: dict[When, float | None]  # mean negative log-likelihood in nats
    reliability: dict[When, Bins]


class SubsetScores(TypedDict):
    """Scores by what is shown to the model."""

    subsets: dict[str, Scores | None]  # of "V", "A", "T", "VA", ...; None: no clip has these modalities
    available: Scores | None  # with whatever modalities each clip has


class FoldScores(SubsetScores):
    """Scores of the clips of one fold."""

    n_clips: int
    speakers: list[str]
    name: NotRequired[str]  # of a fold that the corpus brings along; others have numbers alone


class Lead(TypedDict):
    """How far all modalities together are above the best alone, in WAF, on clips that have them all."""

    subset: str  # "VAT", or fewer
    best: str  # "V", "A" or "T"
    waf: float
    best_waf: float
    difference: float
    interval: Interval  # of the difference
    n: int


class ModelCalibration(CalibrationChange):
    """How calibrated a model is on the clips of a report; without a temperature, "after" is as before."""

    temperature: float | None
    fitted_on: str | None


class EvaluationReport(SubsetScores):
    """The content of report.json. Rates are in [0, 1]; those of a cross-validation are of all folds' clips together."""

    intervals: dict[str, dict[str, Interval]]  # of the subsets that have scores and of "available": by score
    drawn: str  # what the intervals' bootstrap draws: "speakers" or "clips"
    fusion: Lead | None  # None: no clip has two modalities
    speakers: dict[str, dict[str, float]]  # "waf" and "n" clips of each speaker
    per_class_precision: dict[str, float]
    per_class_recall: dict[str, float]
    per_class_f1: dict[str, float]
    per_class_n: dict[str, int]
    confusion: list[list[int]]  # rows: truth, columns: prediction, both in the order of `labels`
    confusions: dict[str, list[list[int]]]  # of "V", "A", "T" alone, where clips have them
    calibration: ModelCalibration
    balance: dict[str, dict[str, int]]  # of "train", "validation", "test": labelled clips by class
    split: str
    labels: list[str]
    chance: dict[str, float]  # what guessing reaches: "uniform_accuracy", "majority_accuracy", "majority_waf"
    n_clips: int
    notes: list[str]
    convention: NotRequired[str]  # what papers on the corpus report
    histories: NotRequired[dict[str, list[dict[str, float]]]]  # of "emovclip" and "fusion": metrics of every epoch
    checkpoint: NotRequired[str]  # the name of the evaluated checkpoint
    folds: NotRequired[list[FoldScores]]  # in place of `checkpoint`
    floors: NotRequired[dict[str, FloorScores]]  # of subsets


def convention_of(corpus: str, manifest: str | None, notes: list[str]) -> str | None:
    """What papers on a corpus report; None for a corpus without a custom.

    `corpus` is data.corpus; with `auto`, `notes` of reading it say what it was taken for.
    """
    taken = next((note.partition("is taken for ")[2] for note in notes if "the folder is taken for " in note), "")
    name = Path(manifest or "").stem.lower()
    return next((words for key, words in CONVENTIONS.items() if corpus == key or taken.startswith(key)), None) or next(
        (words for key, words in CONVENTIONS.items() if key in name.replace("-", "_").split("_")), None
    )


def verdict(report: EvaluationReport) -> list[str]:
    """What the numbers allow to conclude, in sentences; the most important first."""
    if report["available"] is None:
        return []
    return [
        *_chance_sentences(report),
        *_fusion_sentence(report["fusion"]),
        *[_sentence(note.removeprefix("warning: ")) for note in floor_notes(report.get("floors", {}))],
        *_class_sentence(report["per_class_n"]),
        _people_sentence(report),
    ]


def _chance_sentences(report: EvaluationReport) -> list[str]:
    """Which modalities are no better than guessing, by which UAR is 1 / K: those whose interval includes that."""
    sentences = []
    for name in MODALITIES:
        subset = name[0].upper()
        scores = report["subsets"].get(subset)
        if scores is None or scores["classes"] < 2:
            continue
        low, high = report["intervals"][subset]["uar"]
        guessing = 1 / scores["classes"]
        if low <= guessing:
            where = "not seen to be above chance" if high >= guessing else "below chance"
            sentences.append(
                f"{name.capitalize()} alone is {where}: UAR {percent(scores['uar'])} % ({percent(low)} to "
                f"{percent(high)}), and guessing gives {percent(guessing)} %."
            )
    return sentences


def _fusion_sentence(lead: Lead | None) -> list[str]:
    if lead is None:
        return []
    low, high = lead["interval"]
    together, alone = SUBSET_NAMES[lead["subset"]], SUBSET_NAMES[lead["best"]]
    size = f"{points(lead['difference'])} points of WAF ({points(low)} to {points(high)})"
    on = f"on the {plural(lead['n'], 'clip')} that have all of them"
    if low > 0:
        return [f"{_sentence(together)[:-1]} is better than {alone}, the best alone: {size} {on}."]
    if high < 0:
        return [f"{_sentence(together)[:-1]} is worse than {alone} alone: {size} {on}."]
    return [f"{_sentence(together)[:-1]} is not seen to be better than {alone}, the best alone: {size} {on}."]


def _class_sentence(clips: Mapping[str, int]) -> list[str]:
    few = [f"{label} ({count})" for label, count in clips.items() if 0 < count < FEW_CLIPS]
    return [f"Classes with fewer than {FEW_CLIPS} clips, whose rates say little: {', '.join(few)}."] if few else []


def _people_sentence(report: EvaluationReport) -> str:
    count = len(report["speakers"])
    if report["drawn"] == "speakers":
        return f"Intervals hold for other people like these {count} speakers (bootstrap over speakers)."
    if count == 0:
        return "No speakers are known: intervals are over clips, and too narrow for other people."
    few = f"Only {plural(count, 'speaker')} {'is' if count == 1 else 'are'} known, fewer than {FEW_SPEAKERS}"
    return f"{few}: intervals are over clips, and too narrow for other people."


def _sentence(words: str) -> str:
    """Words with a capital letter and a full stop."""
    return words[:1].upper() + words[1:].rstrip(".") + "."
