"""The words of every report: names of scores and of subsets of the modalities, and numbers as text."""

import math

from emo_ray.config.model_settings import SUBSETS

SCORES = {"waf": "WAF", "accuracy": "accuracy", "uar": "UAR", "macro_f1": "macro F1"}
SUBSET_NAMES = {subset: " + ".join(modalities) for subset, modalities in SUBSETS.items()}
AVAILABLE = "whatever each clip has"
DASH = "–"
NOTHING = "no clips"
_LONGEST_LABEL = 20  # characters on an axis; the page shows the whole label


def percent(rate: float | None) -> str:
    """A share in [0, 1] in percent with one decimal; a dash for None and NaN."""
    return DASH if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def whole_percent(rate: float) -> str:
    """A probability in [0, 1] in percent without decimals, with its sign: "62 %"."""
    return f"{100 * rate:.0f} %"


def clock(time_s: float) -> str:
    """A time from the beginning of a recording in whole seconds: "0:07", "1:02:03"."""
    minutes, seconds = divmod(int(time_s), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def person_words(person: str) -> str:
    """What a reader calls a person of a row: a number is no name."""
    return f"person {person}" if person.isdigit() else person


def points(share: float | None) -> str:
    """A difference of shares in percentage points, always with its sign; a dash for None and NaN."""
    return DASH if share is None or math.isnan(share) else f"{100 * share:+z.1f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """A count with its noun, which takes an s for all counts but one: "1 clip", "2 clips"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shorten(label: str, letters: int = _LONGEST_LABEL) -> str:
    """The label, cut with an ellipsis where it is longer than an axis has room for."""
    return label if len(label) <= letters else label[: letters - 1] + "…"
