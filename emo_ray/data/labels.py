"""Labels: which class each one is, the classes of a run in their order, and the codes in RAVDESS' file names."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from emo_ray.config.data_settings import Data

# No label, as pandas, R and spreadsheets spell it, in lower case; a class where data.label_map or data.labels says so.
_NO_LABEL = {"nan", "na", "n/a", "<na>", "#n/a", "null"}
_MAYBE_NO_LABEL = {"none", "unknown"}  # lower case; some corpora call a class so
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


def class_of_labels(counts: Mapping[str, int], data: Data) -> tuple[dict[str, str | None], list[str]]:
    """The class of each label of a corpus, None for one that stands for no label, and notes for the user.

    `counts` are the clips of each label. Labels that `data.label_map` maps to null are left out of the result: so are
    their clips. Raises ValueError where classes differ in case or white space alone, unless `data.merge_labels` joins
    them: into the spelling of `data.labels`, else into the most frequent one, of equally frequent ones the first.
    """
    configured = set(data.labels or ())
    class_of: dict[str, str | None] = {}
    for label in counts:
        is_none = label.lower() in _NO_LABEL and label not in data.label_map and label not in configured
        class_of[label] = None if is_none else data.label_map.get(label, label)
    dropped = {label for label in counts if label in data.label_map and data.label_map[label] is None}
    class_counts: Counter[str] = Counter()
    for label, name in class_of.items():
        if name is not None:
            class_counts[name] += counts[label]
    spelling_of, merge_notes = _spellings(class_counts, configured, data.merge_labels)
    notes = _label_notes(counts, class_of, dropped, data) + merge_notes
    classes = {label: name and spelling_of[name] for label, name in class_of.items() if label not in dropped}
    return classes, notes


def _label_notes(
    counts: Mapping[str, int], class_of: Mapping[str, str | None], dropped: set[str], data: Data
) -> list[str]:
    def counted(labels: Iterable[str]) -> str:
        return ", ".join(f"{label!r} in {counts[label]} clips" for label in sorted(labels))

    none = [label for label, name in class_of.items() if name is None and label not in dropped]
    doubtful = [name for name in class_of.values() if name and name.lower() in _MAYBE_NO_LABEL and name in counts]
    unused = [label for label in data.label_map if label not in counts]
    notes = [f"data.label_map leaves clips out: {counted(dropped)}"] if dropped else []
    notes += [f"taken for no label: {counted(none)}; data.label_map can make a class of it"] if none else []
    notes += [
        f"taken for a class: {counted({name})}; data.label_map.{name}=null leaves its clips out"
        for name in dict.fromkeys(doubtful)
        if name not in data.label_map and name not in (data.labels or ())
    ]
    return notes + ([f"data.label_map names {', '.join(map(repr, unused))}, which no clip has"] if unused else [])


def _spellings(counts: Counter[str], configured: set[str], merge: bool) -> tuple[dict[str, str], list[str]]:
    """The spelling under which each class goes on, and a note for classes that are joined.

    Raises ValueError where `configured` names have two spellings of a class, or the clips have and `merge` is false.
    """
    spellings: dict[str, list[str]] = {}
    for name in sorted({*counts, *configured}):
        spellings.setdefault(_folded(name), []).append(name)
    several = [names for names in spellings.values() if len(names) > 1 and any(name in counts for name in names)]
    shown = "; ".join(" and ".join(f"{name!r} ({counts[name]} clips)" for name in names) for names in several)
    if several and not merge:
        raise ValueError(
            f"found labels that differ in case or white space alone, {shown}, expected one spelling of each: join them "
            "with data.merge_labels=true, or rename them with data.label_map={OLD: NEW}"
        )
    spelling_of = {name: name for name in counts}
    for names in several:
        in_config = [name for name in names if name in configured]
        if len(in_config) > 1:
            raise ValueError(
                f"data.labels: found {in_config[0]!r} and {in_config[1]!r}, which differ in case or white space alone, "
                "expected one of them for data.merge_labels=true"
            )
        kept = (in_config or sorted(names, key=lambda name: (-counts[name], name)))[0]
        spelling_of |= {name: kept for name in names if name in counts}
    return spelling_of, [f"data.merge_labels joins {shown}"] if several else []


def _folded(label: str) -> str:
    """A label without case, white space and invisible characters: equal for labels that look much the same."""
    folded = unicodedata.normalize("NFKC", label.casefold()).casefold()
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")


def too_few(labels: Iterable[str], is_folder: bool = False) -> str:
    """What to say of a corpus with less labels than a job needs; a folder has no columns to name."""
    names = sorted(labels)
    advice = "name the label column with data.columns.label=COLUMN, or the classes with data.labels=[...]"
    if is_folder:
        advice = (
            "set data.corpus=class_folders where clips lie in a folder of each class, or name a table of the clips as "
            "data.manifest, with a column label"
        )
    place = "folder" if is_folder else "manifest"
    return f"found {len(names)} label(s) {names} in the {place}, expected at least two: {advice}"


def vocabulary(labels: Iterable[str | None], configured: tuple[str, ...] | None) -> tuple[str, ...]:
    """The K classes of a run in index order: `configured` (data.labels), or if None those of the clips, sorted.

    Raises ValueError where a clip has a label that is not configured, or there are fewer than two labels.
    """
    counts = Counter(label for label in labels if label is not None)
    if configured is not None:
        unknown = sorted(set(counts) - set(configured))
        if unknown:
            raise ValueError(
                f"found labels {', '.join(f'{label!r} ({counts[label]} clips)' for label in unknown)}, expected only "
                f"those of data.labels ({', '.join(configured)}): add them to it, or rename or drop them with "
                "data.label_map"
            )
        return tuple(configured)
    if len(counts) < 2:
        raise ValueError(too_few(counts))
    return tuple(sorted(counts))
