"""Label vocabularies: the classes of a run in their order, and the codes that RAVDESS uses in file names."""

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


def vocabulary(labels: Iterable[str | None], configured: tuple[str, ...] | None) -> tuple[str, ...]:
    """The K labels of a run in index order: `configured` (data.labels), or if None the clips' own, sorted.

    Raises ValueError where a clip has a label that is not configured, or there are fewer than two labels.
    """
    counts = Counter(label for label in labels if label is not None)
    if configured is not None:
        unknown = sorted(set(counts) - set(configured))
        if unknown:
            raise ValueError(
                f"found labels {', '.join(f'{label!r} ({counts[label]} clips)' for label in unknown)}, expected only "
                f"those of data.labels ({', '.join(configured)}): correct the manifest or add them to data.labels"
            )
        return tuple(configured)
    if len(counts) < 2:
        raise ValueError(
            f"found {len(counts)} label(s) {sorted(counts)} in the manifest, expected at least two: "
            "name the label column with data.columns.label=COLUMN, or the classes with data.labels=[...]"
        )
    return tuple(sorted(counts))
