"""Label vocabularies: which classes a run has and in which order, and the names that corpora use."""

from collections import Counter
from collections.abc import Iterable

RAVDESS_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
RAVDESS_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}


def vocabulary(found: Iterable[str | None], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The K labels of a run in index order: `wanted` as given, else those found, alphabetically.

    Raises ValueError where a label is found that is not wanted, or fewer than two labels are left.
    """
    counts = Counter(label for label in found if label is not None)
    if wanted is not None:
        strange = sorted(set(counts) - set(wanted))
        if strange:
            raise ValueError(
                f"found labels {', '.join(f'{s!r} ({counts[s]} clips)' for s in strange)}, expected only those of "
                f"data.labels ({', '.join(wanted)}): correct the manifest or add them to data.labels"
            )
        return tuple(wanted)
    if len(counts) < 2:
        raise ValueError(
            f"found {len(counts)} label(s) {sorted(counts)} in the manifest, expected at least two: "
            "name the label column with data.columns.label=COLUMN, or the classes with data.labels=[...]"
        )
    return tuple(sorted(counts))
