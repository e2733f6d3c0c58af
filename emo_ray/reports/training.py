"""What training and the other jobs without a page end with: tables of scores, of counts, and of folders."""

from collections.abc import Mapping

from emo_ray.reports.table import Table
from emo_ray.reports.wording import AVAILABLE, DASH, SCORES, SUBSET_NAMES, percent

PHASES = {"emovclip": "EmoVCLIP", "fusion": "fusion head"}
_MEAN = "mean of these subsets"


def tables(best: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Validation scores of each phase at its best epoch, then those of the fusion head by modalities.

    `best` is the entry of that name in a checkpoint's meta.json: by phase "epoch" (from 0), "waf", "accuracy", "uar",
    "macro_f1" (in [0, 1]) and "n", of the fusion head also "V/waf" and so on; only "epoch" without validation clips.
    """
    phases = [
        [
            name,
            f"{best[phase]['epoch'] + 1:.0f}",
            f"{best[phase]['n']:.0f}" if "n" in best[phase] else DASH,
            *(percent(best[phase].get(score)) for score in SCORES),
        ]
        for phase, name in PHASES.items()
        if phase in best
    ]
    note = "" if any("n" in scores for scores in best.values()) else "No validation clips: the last epoch is kept."
    header = ["phase", "best epoch", "clips", *SCORES.values()]
    shown = [Table("Validation scores at the best epoch, percent", header, phases, note)]
    fusion = best.get("fusion", {})
    if "waf" in fusion:
        shown.append(_subset_table(fusion))
    return shown


def summary_table(
    title: str, counts: Mapping[str, object], first: str = "", value: str = "clips", note: str = ""
) -> Table:
    """What a job counted or wrote. `first` heads the names of the rows, `value` the one column of plain values.

    Nested counts such as {"train": {"happy": 3}} have a row for each outer and a column for each inner key; 0 where a
    row lacks one.
    """
    nested = {name: inner for name, inner in counts.items() if isinstance(inner, Mapping)}
    if not nested:
        words = () if all(isinstance(number, int | float) for number in counts.values()) else (1,)
        return Table(title, [first, value], [[name, str(text)] for name, text in counts.items()], note, (), (0, *words))
    columns = list(dict.fromkeys(column for inner in nested.values() for column in inner))
    rows = [[name, *(str(inner.get(column, 0)) for column in columns)] for name, inner in nested.items()]
    return Table(title, [first, *map(str, columns)], rows, note)


def _subset_table(scores: Mapping[str, float]) -> Table:
    """The fusion head when it is shown each subset of the modalities; subsets that no clip has all of are dashes."""
    prefixes = {name: f"{subset}/" for subset, name in SUBSET_NAMES.items()} | {_MEAN: "mean/", AVAILABLE: ""}
    rows = [[name, *(percent(scores.get(prefix + score)) for score in SCORES)] for name, prefix in prefixes.items()]
    title = "The fusion head on validation clips by modalities, percent"
    return Table(title, ["modalities", *SCORES.values()], rows, emphasised=(len(rows) - 1,))
