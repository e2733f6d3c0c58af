"""What a person should know of a corpus before training on it: leakage, balance, and clips with little in them."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import content, shards, splits, status
from emo_ray.data.content import Content
from emo_ray.data.manifest import Clip

Severity = Literal["fine", "note", "warning", "error"]
JUDGED = ("train", "validation", "test")  # splits between which a clip must not leak
_FEW_CLIPS = 10  # of a class in training
_DRIFT, _CHANCE = 0.1, 0.01  # total variation that is worth a word, where chance makes it less often than this
_CLIPPED_SHARE = 0.001  # of samples
_SHORTEST_S, _ODD, _RATIO = 0.3, 4.0, 2.0  # odd: this many robust deviations from the median, and this far from it
_MOST_PAIRS = 100_000
_EQUAL = {"video_digest": "equal pictures", "audio_digest": "equal sound"}
NEAR = {
    content.PICTURES: "pictures alike",
    content.WHOLE_SOUND: "sound alike",
    content.LOUD_SOUND: "sound alike",
}


@dataclass(frozen=True)
class Finding:
    """A check's outcome in words; `details` says of each clip in question why it is."""

    check: str
    severity: Severity
    text: str
    details: Mapping[str, str] = field(default_factory=dict)


class Pair(NamedTuple):
    """Two clips with the same content, or almost: `kind` says what of it."""

    first: str
    second: str
    kind: str
    likeness: float  # 1: equal


@dataclass(frozen=True)
class Checked:
    """A corpus to check: its clips, the ledger's row and the content of each that was decoded."""

    clips: Mapping[str, Clip]
    rows: Mapping[str, Mapping[str, Any]]
    contents: Mapping[str, Content]
    labels: Sequence[str]

    def splits_of(self, pair: Pair) -> tuple[str, str]:
        """The splits of both clips."""
        first, second = (self.clips[clip_id].split or "" for clip_id in (pair.first, pair.second))
        return first, second


def same_content(checked: Checked) -> list[Pair]:
    """Pairs of clips with equal or nearly equal content; of a group of equal ones, each with the first of each split.

    People of one clip are not compared: they share its sound.
    """
    pairs = [pair for column, kind in _EQUAL.items() for pair in _equal(checked, column, kind)]
    seen = {(pair.first, pair.second) for pair in pairs}
    for name in content.ALIKE:
        for pair in _near(checked, name):
            if (pair.first, pair.second) not in seen:
                seen.add((pair.first, pair.second))
                pairs.append(pair)
    return pairs


def findings(checked: Checked, pairs: Sequence[Pair]) -> list[Finding]:
    """All checks, those of the whole corpus first."""
    leaks = [pair for pair in pairs if _crosses(checked.splits_of(pair))]
    others = [pair for pair in pairs if not _crosses(checked.splits_of(pair))]
    return [
        _leakage(checked, leaks),
        _speakers(checked),
        _doubled(checked, others),
        *_classes(checked),
        _durations(checked),
        *_faults(checked),
        *_transcripts(checked),
        _languages(checked),
        _faces(checked),
        *_unusable(checked),
    ]


def balance(clips: Iterable[Clip]) -> dict[str, Counter[str]]:
    """Labelled clips by label, of every split."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if clip.label is not None:
            counts[clip.split or ""][clip.label] += 1
    return dict(counts)


def total_variation(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """How far two distributions of classes are apart: 0 for equal ones, 1 where they share no class."""
    labels = {*first, *second}
    n, m = sum(first.values()), sum(second.values())
    return sum(abs(first.get(label, 0) / n - second.get(label, 0) / m) for label in labels) / 2


def drift_by_chance(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """The chance that clips of one distribution differ as much as these by class (chi-square test)."""
    labels = sorted({label for label in (*first, *second) if first.get(label, 0) + second.get(label, 0)})
    if len(labels) < 2:
        return 1.0
    counts = np.array([[side.get(label, 0) for label in labels] for side in (first, second)])
    return float(stats.chi2_contingency(counts).pvalue)


def odd_durations(durations_s: Mapping[str, float]) -> dict[str, float]:
    """Clips that are far shorter or longer than the others, or hold hardly anything."""
    logs = {clip_id: math.log(max(duration_s, 1e-3)) for clip_id, duration_s in durations_s.items()}
    if not logs:
        return {}
    middle = float(np.median(list(logs.values())))
    spread = 1.4826 * float(np.median([abs(value - middle) for value in logs.values()]))
    least = max(_ODD * spread, math.log(_RATIO))
    return {
        clip_id: durations_s[clip_id]
        for clip_id, value in logs.items()
        if abs(value - middle) > least or durations_s[clip_id] < _SHORTEST_S
    }


def _crosses(names: tuple[str, str]) -> bool:
    return names[0] != names[1] and set(names) <= set(JUDGED)


def _equal(checked: Checked, column: str, kind: str) -> list[Pair]:
    groups: dict[str, list[str]] = defaultdict(list)
    for clip_id, row in checked.rows.items():
        if row[column] is not None:
            groups[row[column]].append(clip_id)
    pairs = []
    for group in groups.values():
        first_of_split: dict[str, str] = {}
        for clip_id in group:
            for first in first_of_split.values():
                if not _is_one_clip(first, clip_id):
                    pairs.append(Pair(first, clip_id, kind, 1.0))
            first_of_split.setdefault(checked.clips[clip_id].split or "", clip_id)
    return pairs


def _near(checked: Checked, name: str) -> list[Pair]:
    """Pairs by one descriptor. Where both clips have sound, pictures tell nothing: people sit before the same wall."""
    described = {clip_id: item.descriptors for clip_id, item in checked.contents.items() if name in item.descriptors}
    clip_ids = sorted(described, key=lambda clip_id: content.WHOLE_SOUND in described[clip_id])
    silent = sum(content.WHOLE_SOUND not in descriptors for descriptors in described.values())
    if not clip_ids:
        return []
    vectors_ND = np.stack([described[clip_id][name] for clip_id in clip_ids])
    queries = silent if name == content.PICTURES else len(clip_ids)
    near = content.near_pairs(vectors_ND, content.ALIKE[name], queries)
    pairs = (Pair(clip_ids[i], clip_ids[j], NEAR[name], likeness) for i, j, likeness in near)
    return list(islice((pair for pair in pairs if not _is_one_clip(pair.first, pair.second)), _MOST_PAIRS))


def _is_one_clip(first: str, second: str) -> bool:
    return shards.clip_and_person(first)[0] == shards.clip_and_person(second)[0]


def _leakage(checked: Checked, leaks: Sequence[Pair]) -> Finding:
    if not leaks:
        return Finding("leakage by content", "fine", "No clip of a split is in another one, not even nearly.")
    between = Counter(" and ".join(sorted(checked.splits_of(pair), key=JUDGED.index)) for pair in leaks)
    text = ", ".join(f"{count} between {names}" for names, count in between.most_common())
    return Finding(
        "leakage by content", "error", f"Pairs of clips with the same content: {text}.", _pair_details(leaks)
    )


def _doubled(checked: Checked, pairs: Sequence[Pair]) -> Finding:
    if not pairs:
        return Finding("doubled clips", "fine", "No clip is there twice.")
    labels = [{checked.clips[clip_id].label for clip_id in pair[:2]} - {None} for pair in pairs]
    contradicting = sum(len(names) > 1 for names in labels)
    text = f"Pairs of clips with the same content, in one split or with an unlabelled clip: {len(pairs)}"
    text += f"; {contradicting} of them have different labels." if contradicting else "."
    return Finding("doubled clips", "warning", text, _pair_details(pairs))


def _pair_details(pairs: Sequence[Pair]) -> dict[str, str]:
    details: dict[str, str] = {}
    for pair in pairs:
        for clip_id, other in ((pair.first, pair.second), (pair.second, pair.first)):
            details.setdefault(clip_id, f"{pair.kind} in {other}")
    return details


def _speakers(checked: Checked) -> Finding:
    clips = list(checked.clips.values())
    named = sum(clip.speaker is not None for clip in clips)
    if not named:
        return Finding(
            "leakage by speaker", "note", "No speaker is named, so nobody can tell who is in several splits."
        )
    crossing = splits.crossing_speakers(clips)
    unnamed = f" {len(clips) - named} clips name nobody." if named < len(clips) else ""
    if not crossing:
        return Finding("leakage by speaker", "fine", f"No speaker is in several splits.{unnamed}")
    shown = ", ".join(sorted(crossing)[:5])
    details = {
        clip.clip_id: f"{clip.speaker} is in {', '.join(sorted(crossing[clip.speaker]))}"
        for clip in clips
        if clip.speaker in crossing
    }
    text = f"{len(crossing)} speakers are in several splits, such as {shown}.{unnamed}"
    return Finding("leakage by speaker", "error", text, details)


def _classes(checked: Checked) -> list[Finding]:
    """Whether training has enough of every class, and whether the other splits are made of the same classes."""
    counts = balance(checked.clips.values())
    if not counts:
        return [Finding("classes", "note", "No clip has a label.")]
    trained = counts.get("train", Counter())
    few = [f"{label} {trained[label]}" for label in checked.labels if trained[label] < _FEW_CLIPS]
    largest, least = max(trained.values(), default=0), min((trained[label] for label in checked.labels), default=0)
    text = f"The largest class of training has {largest} clips, the smallest {least}."
    if few:
        text += f" Hardly anything is learnt of: {', '.join(few)}."
    outcomes = [Finding("classes", "warning" if few else "fine", text)]
    for name in ("validation", "test"):
        if trained and counts.get(name):
            outcomes.append(_drift(name, trained, counts[name]))
    return outcomes


def _drift(name: str, trained: Counter[str], others: Counter[str]) -> Finding:
    distance, chance = total_variation(trained, others), drift_by_chance(trained, others)
    text = f"{100 * distance:.0f} % of the {name} clips would need another class to be balanced like training"
    text += f" (total variation; by chance with p = {chance:.2g})."
    return Finding(f"drift of classes, {name}", "warning" if distance > _DRIFT and chance < _CHANCE else "fine", text)


def _durations(checked: Checked) -> Finding:
    durations_s = {clip_id: row["audio_s"] for clip_id, row in checked.rows.items() if row["audio_s"]}
    if not durations_s:
        return Finding("durations", "note", "No clip has sound, by which durations are known.")
    odd = odd_durations(durations_s)
    low, middle, high = np.quantile(list(durations_s.values()), (0.05, 0.5, 0.95))
    text = f"Nine of ten sounds last {low:.1f} to {high:.1f} s, {middle:.1f} s in the middle."
    if odd:
        text += f" {len(odd)} are far off, or shorter than {_SHORTEST_S} s."
    details = {clip_id: f"{duration_s:.2f} s" for clip_id, duration_s in odd.items()}
    return Finding("durations", "warning" if odd else "fine", text, details)


def _faults(checked: Checked) -> list[Finding]:
    """Clips with little in their sound or picture."""
    kinds: dict[str, tuple[str, Callable[[Content], str]]] = {
        "silence": ("hear nothing", lambda item: f"{item.loudest_db:.0f} dB" if item.is_silent else ""),
        "clipping": (
            "hear a distorted, clipped sound",
            lambda item: f"{item.clipped_share:.1%}" if (item.clipped_share or 0) > _CLIPPED_SHARE else "",
        ),
        "dark pictures": ("see hardly anything", lambda item: "dark or of one colour" if item.is_dark else ""),
        "still pictures": (
            "see no movement",
            lambda item: "frames are equal" if item.is_still and not item.is_dark else "",
        ),
    }
    outcomes = []
    for check, (words, detail_of) in kinds.items():
        details = {clip_id: detail for clip_id, item in checked.contents.items() if (detail := detail_of(item))}
        text = f"One would {words} in {len(details)} of {len(checked.contents)} clips." if details else "None."
        outcomes.append(Finding(check, "warning" if details else "fine", text, details))
    return outcomes


def _transcripts(checked: Checked) -> list[Finding]:
    texts = {clip_id: (clip.text or "").strip() for clip_id, clip in checked.clips.items()}
    missing = {clip_id: "no words" for clip_id, text in texts.items() if not text}
    share = f"{len(missing)} of {len(texts)} clips have no transcript"
    advice = "; jobs/transcribe.py writes them" if missing else ""
    times = Counter(text.casefold() for text in texts.values() if text)
    doubled = {clip_id: text for clip_id, text in texts.items() if times[text.casefold()] > 1}
    text = f"{len(times)} different transcripts; {len(doubled)} clips share theirs with another."
    return [
        Finding("missing transcripts", "note" if missing else "fine", f"{share}{advice}.", missing),
        Finding("doubled transcripts", "note" if doubled else "fine", text if times else "None.", doubled),
    ]


def _languages(checked: Checked) -> Finding:
    counts = Counter(clip.language or "not named" for clip in checked.clips.values())
    text = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    return Finding("languages", "fine" if len(counts) == 1 and "not named" not in counts else "note", f"{text}.")


def _faces(checked: Checked) -> Finding:
    people = {clip_id: row["faces"] or 0 for clip_id, row in checked.rows.items() if row["face_status"] is not None}
    if not people:
        return Finding("faces", "note", "Nobody has looked for faces: media.face.detector does (docs/faces.md).")
    details = {
        clip_id: "no face" if count == 0 else f"{count} people" for clip_id, count in people.items() if count != 1
    }
    none = sum(count == 0 for count in people.values())
    text = f"Of {len(people)} clips, {none} show no face and {len(details) - none} several people."
    return Finding("faces", "warning" if details else "fine", text, details)


def _unusable(checked: Checked) -> list[Finding]:
    """Media that cannot be read, and clips of which nothing can."""
    details: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    empty: dict[str, str] = {}
    for clip_id, row in checked.rows.items():
        statuses = {name: row[f"{name}_status"] for name in MODALITIES}
        broken = [f"{name}: {text}" for name, text in statuses.items() if status.kind(text) == status.CORRUPT]
        kinds.update(line.partition(":")[0] for line in broken)
        if broken:
            details[clip_id] = "; ".join(broken)
        if not any(status.is_ok(text) for text in statuses.values()):
            empty[clip_id] = "; ".join(f"{name}: {text}" for name, text in statuses.items())
    counts = ", ".join(f"{name} of {count} clip{'s' * (count != 1)}" for name, count in kinds.items())
    return [
        Finding("unreadable media", "warning" if details else "fine", f"{counts}." if details else "None.", details),
        Finding(
            "empty clips",
            "warning" if empty else "fine",
            f"{len(empty)} without anything that can be used." if empty else "None.",
            empty,
        ),
    ]
