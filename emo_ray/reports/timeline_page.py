"""The page of a recording: each label's probability over time, pictures, and below them who says what.

A page of thousands of utterances stays below 2 MB: then the lanes show means over short stretches, and the list ends.
"""

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from emo_ray.reports.drawings import bar
from emo_ray.reports.templating import TEMPLATES
from emo_ray.reports.timeline import NO_PREDICTION, Timeline, Utterance
from emo_ray.reports.wording import clock, plural, shorten, whole_percent

MOST_STILLS, _STILLS_EVERY_S = 48, 3.0
_STRIP = 12  # places for pictures below the lanes
_MOST_STEPS, _MOST_LINKS = 400, 300
_LIST_BYTES, _ROW_BYTES = 1_200_000, 350  # all of the list; a row of it without its words
_MOST_LANES, _MOST_PEOPLE = 12, 6
_LONGEST_TEXT = 300  # characters of an utterance; its CSV has all
_TICKS = 6
_TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)


class Still(NamedTuple):
    """A frame to show, and when it is on screen: frame `frame` of those that a shard holds of a clip."""

    time_s: float
    clip_id: str
    frame: int


class Step(NamedTuple):
    """Probabilities (K) of an utterance, or means over several, from when to when."""

    start_s: float
    end_s: float
    probabilities_K: np.ndarray


@dataclass(frozen=True)
class _Lane:
    """One label over time: two SVG paths, where it is the most probable label and where it is not."""

    label: str
    path: str
    other_path: str
    share: str  # of the speech
    alt: str


def choose_stills(utterances: Sequence[Utterance], frames: int) -> list[Still]:
    """Which of `frames` frames of each utterance to show: at most MOST_STILLS, no closer than a few seconds.

    Frame i is on screen in the middle of the i-th of `frames` equal stretches, as media.read_video takes it. Of several
    people each has stills of their own.
    """
    by_person: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_person[utterance.seen].append(utterance)
    most = MOST_STILLS // len(by_person) if by_person else 0
    return sorted(still for some in by_person.values() for still in _stills_of_person(some, frames, most))


def _stills_of_person(utterances: Sequence[Utterance], frames: int, most: int) -> list[Still]:
    gap_s = max(_STILLS_EVERY_S, max(u.end_s for u in utterances) / (most + 1))
    stills: list[Still] = []
    for utterance in utterances:
        length_s = utterance.end_s - utterance.start_s
        middle_first = [frames // 2] if length_s < gap_s else range(frames)
        for i in middle_first:
            time_s = utterance.start_s + (i + 0.5) / frames * length_s
            if not stills or time_s >= stills[-1].time_s + gap_s:
                stills.append(Still(time_s, utterance.clip_id, i))
    return stills[:most]


def html(timeline: Timeline, name: str, thumbnails: Mapping[Still, bytes], model: str) -> str:
    """The page, with JPEGs of stills; beside it lie the CSV and the subtitles of the same `name`."""
    stills = sorted(thumbnails)
    images = {still: base64.b64encode(thumbnails[still]).decode() for still in stills}
    shown = _listed(timeline.moments)
    stills_of: dict[str, list[Still]] = {}
    for still in stills:
        stills_of.setdefault(still.clip_id, []).append(still)
    people = _people(timeline)
    return TEMPLATES.get_template("timeline.html").render(
        title=timeline.recording,
        summary=_summary(timeline),
        charts=[_chart(timeline, person, utterances, stills_of) for person, utterances in people.items()],
        lanes_note=_lanes_note(timeline, people),
        ticks=_ticks(timeline.end_s),
        images=images,
        rows=[_row(timeline, number, moment, stills_of) for number, moment in enumerate(shown, start=1)],
        hidden_rows=len(timeline.moments) - len(shown),
        name=name,
        model=model,
        clock=clock,
    )


def _summary(timeline: Timeline) -> str:
    if not timeline.utterances:
        return timeline.note
    spoken_s = sum(moment[0].end_s - moment[0].start_s for moment in timeline.moments)
    shares = sorted(_shares(timeline, timeline.utterances).items(), key=lambda pair: -pair[1])[:3]
    names = ", ".join(f"{label} ({whole_percent(share)})" for label, share in shares).replace(" %", "\u00a0%")
    most = f"The largest shares of it: {names}." if shares else "Nothing could be predicted."
    count = plural(len(timeline.moments), "utterance")
    return f"{count}, {clock(spoken_s)} of speech until {clock(timeline.end_s)}. {most}"


def _shares(timeline: Timeline, utterances: Sequence[Utterance]) -> dict[str, float]:
    """The share of the time of all utterances in which a label is the most probable one, by label."""
    total_s = sum(u.end_s - u.start_s for u in utterances)
    shares: dict[str, float] = defaultdict(float)
    for utterance in utterances:
        if (label := timeline.label_of(utterance)) is not None:
            shares[label] += (utterance.end_s - utterance.start_s) / total_s
    return shares


def _people(timeline: Timeline) -> dict[str, list[Utterance]]:
    """The utterances by person, or under an empty name together, where it is not known who speaks, or they are many.

    Of many people who are seen at a time, those who are seen in most utterances.
    """
    counts = Counter(utterance.subject for utterance in timeline.utterances)
    names = sorted(counts)
    if len(names) > _MOST_PEOPLE and any(utterance.seen for utterance in timeline.utterances):
        names = sorted(name for name, _ in counts.most_common(_MOST_PEOPLE))
    if not 1 < len(names) <= _MOST_PEOPLE:
        return {"": list(timeline.utterances)}
    return {name or "not known who": [u for u in timeline.utterances if u.subject == name] for name in names}


def _chart(
    timeline: Timeline, person: str, utterances: Sequence[Utterance], stills_of: Mapping[str, Sequence[Still]]
) -> dict[str, Any]:
    """What is drawn of a person: lanes, places that lead to the words, and pictures."""
    stills = sorted(still for utterance in utterances for still in stills_of.get(utterance.clip_id, ()))
    return {
        "person": person,
        "lanes": _lanes(timeline, utterances),
        "links": _links(timeline, utterances),
        "strip": _strip(stills, timeline.end_s),
    }


def _lanes(timeline: Timeline, utterances: Sequence[Utterance]) -> list[_Lane]:
    steps = _steps(utterances, timeline.end_s)
    shares = _shares(timeline, utterances)
    lanes = []
    for k in _shown_labels(timeline):
        label = timeline.labels[k]
        tops = [step.probabilities_K.argmax() == k for step in steps]
        paths = [
            "".join(_step_bar(step, k, timeline.end_s) for step, top in zip(steps, tops, strict=True) if top == is_top)
            for is_top in (True, False)
        ]
        highest = max(steps, key=lambda step: step.probabilities_K[k], default=None)
        alt = f"{label}: nothing predicted"
        if highest is not None:
            peak = f"highest {whole_percent(highest.probabilities_K[k])} at {clock(highest.start_s)}"
            alt = f"{label} over time: {peak}, the most probable in {whole_percent(shares[label])} of the speech"
        lanes.append(_Lane(shorten(label), paths[0], paths[1], whole_percent(shares[label]), alt))
    return lanes


def _shown_labels(timeline: Timeline) -> list[int]:
    """The labels that get a lane, in their order: all, or the most probable ones where they are many."""
    if len(timeline.labels) <= _MOST_LANES:
        return list(range(len(timeline.labels)))
    rows = [u.probabilities for u in timeline.utterances if u.probabilities is not None]
    means_K = np.mean(rows, axis=0) if rows else np.zeros(len(timeline.labels))
    return sorted(np.argsort(-means_K, kind="stable")[:_MOST_LANES].tolist())


def _lanes_note(timeline: Timeline, people: Mapping[str, Sequence[Utterance]]) -> str:
    note = "Each lane is the probability of one class, from 0 to 100 %, a step for each utterance; strong where the "
    note += "class is the most probable one. To the right: its share of the speech."
    if any(len(utterances) > _MOST_STEPS for utterances in people.values()):
        note += f" So many utterances are drawn as means over stretches of {timeline.end_s / _MOST_STEPS:.0f} seconds."
    if len(timeline.labels) > _MOST_LANES:
        note += f" The {_MOST_LANES} most probable of {len(timeline.labels)} classes are drawn; the CSV has all."
    if any(utterance.seen for utterance in timeline.utterances):
        note += " Of each person it is their own face that is looked at, and everything that is heard, whoever speaks."
        note += " Numbers go from left to right in each utterance: they may be other people in the next one."
    if hidden_people := len({u.subject for u in timeline.utterances}) - len(people) if len(people) > 1 else 0:
        note += f" The CSV has {hidden_people} more people, who are seen less often."
    return note


def _steps(utterances: Sequence[Utterance], end_s: float) -> list[Step]:
    """A step for each utterance with probabilities; where they are too many to be seen, means over equal stretches."""
    steps = [Step(u.start_s, u.end_s, np.asarray(u.probabilities)) for u in utterances if u.probabilities is not None]
    if len(steps) <= _MOST_STEPS:
        return steps
    width_s = end_s / _MOST_STEPS
    sums: dict[int, np.ndarray] = {}
    weights: dict[int, float] = defaultdict(float)
    for step in steps:
        for i in range(int(step.start_s / width_s), min(int(step.end_s / width_s), _MOST_STEPS - 1) + 1):
            overlap_s = min(step.end_s, (i + 1) * width_s) - max(step.start_s, i * width_s)
            if overlap_s > 0:
                sums[i] = sums.get(i, 0) + overlap_s * step.probabilities_K
                weights[i] += overlap_s
    return [Step(i * width_s, (i + 1) * width_s, sums[i] / weights[i]) for i in sorted(sums)]


def _step_bar(step: Step, k: int, end_s: float) -> str:
    """The bar of a step in a picture 1000 wide."""
    return bar(1000 * step.start_s / end_s, 1000 * step.end_s / end_s, step.probabilities_K[k])


def _links(timeline: Timeline, utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
    """Places over the lanes that lead to an utterance in the list; none where they would be too small to hit."""
    if len(timeline.utterances) > _MOST_LINKS:
        return []
    end_s = timeline.end_s
    number_of = {u.clip_id: number for number, moment in enumerate(timeline.moments, start=1) for u in moment}
    return [
        {
            "number": number_of[u.clip_id],
            "left": f"{100 * u.start_s / end_s:.2f}",
            "width": f"{100 * (u.end_s - u.start_s) / end_s:.2f}",
            "hint": f"{clock(u.start_s)} {_emotions(timeline, u, 1)}: {shorten(u.text, 80)}",
        }
        for u in utterances
    ]


def _ticks(end_s: float) -> list[tuple[str, str]]:
    """Times below the lanes: their places in percent, and as text."""
    if not end_s:
        return []
    step_s = next((step for step in _TICK_STEPS_S if end_s / step <= _TICKS), _TICK_STEPS_S[-1])
    return [(f"{100 * time_s / end_s:.2f}", clock(time_s)) for time_s in range(0, int(end_s) + 1, step_s)]


def _strip(stills: Sequence[Still], end_s: float) -> list[tuple[int, Still]]:
    """For each of the places below the lanes (1 to 12), the first still of its time."""
    still_of: dict[int, Still] = {}
    for still in stills:
        still_of.setdefault(min(int(_STRIP * still.time_s / end_s), _STRIP - 1) + 1, still)
    return sorted(still_of.items())


def _listed(moments: Sequence[Sequence[Utterance]]) -> list[Sequence[Utterance]]:
    """The clips that the list has room for."""
    sizes = (
        _ROW_BYTES * len(moment) + len(moment[0].person.encode()) + len(moment[0].text[:_LONGEST_TEXT].encode())
        for moment in moments
    )
    return [moment for moment, size in zip(moments, accumulate(sizes), strict=True) if size <= _LIST_BYTES]


def _row(
    timeline: Timeline, number: int, moment: Sequence[Utterance], stills_of: Mapping[str, Sequence[Still]]
) -> dict[str, Any]:
    first = moment[0]
    return {
        "number": number,
        "start": clock(first.start_s),
        "end": clock(first.end_s),
        "person": first.person,
        "text": shorten(" ".join(first.text.split()), _LONGEST_TEXT),
        "people": [_felt(timeline, utterance, stills_of) for utterance in moment],
    }


def _felt(timeline: Timeline, utterance: Utterance, stills_of: Mapping[str, Sequence[Still]]) -> dict[str, Any]:
    """The most probable labels of a person, how long their bar is in percent, and the person's pictures."""
    ranked, by_face = timeline.ranked(utterance), timeline.ranked_by_face(utterance)
    face = f"; the face alone: {shorten(by_face[0][0])} {whole_percent(by_face[0][1])}" if by_face else ""
    return {
        "seen": utterance.seen,
        "bar": f"{100 * ranked[0][1]:.0f}" if ranked else "",
        "emotions": _emotions(timeline, utterance, 2) + face,
        "stills": stills_of.get(utterance.clip_id, ()),
    }


def _emotions(timeline: Timeline, utterance: Utterance, count: int) -> str:
    """The most probable labels with their probabilities, or why there are none."""
    ranked = [f"{shorten(label)} {whole_percent(p)}" for label, p in timeline.ranked(utterance)[:count]]
    return ", ".join(ranked) or f"{NO_PREDICTION}: {utterance.statuses.get('status', '')}"
