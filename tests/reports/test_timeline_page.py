"""The page of a recording: all that is known of it in words too, nothing loaded or run, and small whatever it holds."""

import io
import re

import numpy as np
import pytest
from pages import flaws
from PIL import Image
from reading import jpegs, loaded, visible

from emo_ray.reports import timeline_page
from emo_ray.reports.drawings import thumbnail
from emo_ray.reports.timeline import Timeline, Utterance
from emo_ray.reports.timeline_page import MOST_STILLS, choose_stills, html

LABELS = ("neutral", "happy", "sad")
HOSTILE = '<script>it\'s & "this"</script>{{ x }}'


def recording(count=4, labels=LABELS, people=("",), text="the words", length_s=2.0, name="talk.mp4"):
    """Utterances of equal length with a pause of a second between, whose labels take turns at 60 %."""
    rest = 0.4 / (len(labels) - 1)
    utterances = [
        Utterance(
            f"talk-{i}", i * (length_s + 1), i * (length_s + 1) + length_s, text, people[i % len(people)],
            [0.6 if k == i % len(labels) else rest for k in range(len(labels))], {"status": "ok"},
        )
        for i in range(count)
    ]  # fmt: skip
    return Timeline(name, labels, utterances)


def jpeg(colour=(200, 0, 0)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((224, 224, 3), colour, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def page(timeline, pictures=True):
    stills = choose_stills(timeline.utterances, 8) if pictures else []
    return html(timeline, "talk", dict.fromkeys(stills, thumbnail(jpeg())), "fusion-0123")


def areas(text):
    """The strong and the pale areas of each lane, each area as (left, right, height)."""
    lanes = re.findall(r'<path class="other" d="([^"]*)"/><path class="top" d="([^"]*)"/>', text)
    numbers = re.compile(r"M([\d.]+) 100V(\d+)H([\d.]+)V100z")
    return [
        [[(float(a), float(b), 100 - int(v)) for a, v, b in numbers.findall(path)] for path in (top, other)]
        for other, top in lanes
    ]


def test_lanes_hold_a_step_for_each_utterance():
    lanes = areas(page(recording()))  # of 11 seconds
    first, second, third, fourth = ((1000 * a / 11, 1000 * b / 11) for a, b in ((0, 2), (3, 5), (6, 8), (9, 11)))
    strong = [[first, fourth], [second], [third]]
    for (top, other), expected in zip(lanes, strong, strict=True):
        assert [step[:2] for step in top] == [pytest.approx(step, abs=0.1) for step in expected]
        assert {step[2] for step in top} == {60}
        assert {step[2] for step in other} == {20}
        assert len(top) + len(other) == 4


def test_all_is_said_in_words_too():
    text = page(recording(people=("Anna",)))
    words = visible(text)
    assert "4 utterances, 0:08 of speech until 0:11." in words
    assert "neutral (50\u00a0%)" in words
    assert "0:03 – 0:05" in words
    assert "happy 60 %, neutral 20 %" in words
    assert words.count("the words") == words.count("Anna:") == 4
    assert "happy over time: highest 60 % at 0:03, the most probable in 25 % of the speech" in text
    assert 'alt="frame at 0:04"' in text
    assert all(image.startswith("<img") and "alt=" in image for image in re.findall("<img[^>]*>", text))


def test_places_lead_to_the_words():
    text = page(recording())
    targets = re.findall('href="#([^"]*)"', text)
    assert targets == ["u1", "u2", "u3", "u4"]
    assert all(f'id="{target}"' in text for target in targets)


def test_people_have_lanes_of_their_own():
    text = page(recording(people=("Anna", "Ben", "")))
    assert [len(top) + len(other) for top, other in areas(text)] == [1, 1, 1, 2, 2, 2, 1, 1, 1]
    assert re.findall("<h3>(.*)</h3>", text) == ["not known who", "Anna", "Ben"]
    many = page(recording(40, people=[f"person {i}" for i in range(20)]))
    assert len(areas(many)) == 3
    assert "person 19:" in visible(many)


def everyone(count, people=2, labels=LABELS):
    """Clips of two seconds in which so many people are seen, of whom the first is happy and all others are sad."""
    rows = [
        Utterance(
            f"talk-{i}#{p}", 3 * i, 3 * i + 2, "the words", "Anna", (0.1, 0.2, 0.7) if p else (0.1, 0.7, 0.2),
            {"status": "ok"}, f"person {p + 1}",
        )
        for i in range(count)
        for p in range(people)
    ]  # fmt: skip
    return Timeline("talk.mp4", labels, rows)


def test_everyone_who_is_seen_has_lanes_and_pictures_of_their_own():
    text = page(everyone(3))
    assert re.findall("<h3>(.*)</h3>", text) == ["person 1", "person 2"]
    (_, happy, sad), (_, other_happy, other_sad) = areas(text)[:3], areas(text)[3:]
    assert [len(lane[0]) for lane in (happy, sad, other_happy, other_sad)] == [3, 0, 0, 3]  # strong areas
    words = visible(text)
    assert "3 utterances, 0:06 of speech until 0:08." in words
    assert words.count("the words") == words.count("Anna:") == 3
    assert words.count("person 1: happy 70 %, sad 20 %") == words.count("person 2: sad 70 %, happy 20 %") == 3
    assert text.count('class="strip"') == 2
    assert len(re.findall("<img", text)) == 2 * 2 * 3  # below the lanes and beside the words
    assert re.findall('href="#([^"]*)"', text) == ["u1", "u2", "u3"] * 2


def test_of_a_crowd_those_who_are_seen_most_have_lanes():
    some = everyone(4, people=2).utterances + everyone(2, people=9).utterances
    text = page(Timeline("talk.mp4", LABELS, sorted(some, key=lambda u: (u.start_s, u.clip_id))))
    assert len(re.findall("<h3>", text)) == 6
    assert {"person 1", "person 2"} < set(re.findall("<h3>(.*)</h3>", text))
    assert "The CSV has 3 more people" in visible(text)
    assert len(choose_stills(everyone(400, people=9).utterances, 8)) <= MOST_STILLS


def test_a_recording_without_utterances_says_so():
    words = visible(page(Timeline("talk.mp4", LABELS, [], "No utterance was found: no speech.")))
    assert "No utterance was found: no speech." in words
    assert "What is said" not in words


def test_all_text_is_escaped_and_nothing_is_loaded():
    text = page(recording(labels=(HOSTILE, "b"), people=(HOSTILE,), text=HOSTILE, name=HOSTILE))
    assert "<script" not in text
    assert not loaded(text)
    assert not flaws(text)
    assert visible(text).count(HOSTILE) == 10  # heading, shares, people, words; elsewhere labels are shortened
    assert not set(re.findall(r"\son\w+=|javascript:", text))


def test_an_utterance_without_prediction_or_words_says_so():
    lost = Utterance("talk-0", 0, 2, "", "", None, {"status": "no usable modality"})
    words = visible(page(Timeline("talk.mp4", LABELS, [lost]), pictures=False))
    assert "Nothing could be predicted." in words
    assert "no words" in words
    assert "no prediction: no usable modality" in words


def test_stills_are_spread_over_time_and_few():
    short = choose_stills(recording(4).utterances, 8)
    assert [(still.clip_id, still.frame) for still in short] == [(f"talk-{i}", 4) for i in range(4)]
    assert short[1].time_s == pytest.approx(3 + 2 * 4.5 / 8)
    (monologue,) = recording(1, length_s=20).utterances
    times_s = [still.time_s for still in choose_stills([monologue], 8)]
    assert len(times_s) == 4
    assert min(np.diff(times_s)) >= 3
    hours = choose_stills(recording(5000).utterances, 8)
    assert MOST_STILLS / 2 < len(hours) <= MOST_STILLS
    assert max(still.time_s for still in hours) > 14000
    assert choose_stills([], 8) == []


def test_pictures_are_those_of_the_frames():
    text = page(recording(2))
    assert set(jpegs(text)) == {thumbnail(jpeg())}
    assert "<img" not in page(recording(2), pictures=False)


@pytest.mark.parametrize("text", ["Kids are talking by the door", "门" * 2000])
def test_a_page_of_hours_stays_small(text):
    labels = [f"emotion {k}" for k in range(20)]
    written = page(recording(6000, labels, ("A", "B", "C", "D", "E", "F"), text))
    assert len(written.encode()) < 2.2e6
    assert "more utterances are in talk.csv" in visible(written)
    assert "12 most probable of 20 classes" in visible(written)


def test_means_over_stretches_keep_the_probability():
    """Where utterances are too many for a step each, equal ones give equal means."""
    count = 3 * timeline_page._MOST_STEPS
    same = Timeline("t", LABELS, [Utterance(f"{i}", i, i + 1, "", "", (0.5, 0.3, 0.2), {}) for i in range(count)])
    (neutral, happy, sad) = areas(page(same, pictures=False))
    for (top, other), height in ((neutral, 50), (happy, 30), (sad, 20)):
        assert {step[2] for step in top + other} == {height}
        assert len(top + other) == timeline_page._MOST_STEPS
    assert (neutral[1], happy[0], sad[0]) == ([], [], [])
