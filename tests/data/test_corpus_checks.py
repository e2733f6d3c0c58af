"""Checks of a corpus: each sees the fault that is planted, and nothing where all is well."""

from dataclasses import replace

import numpy as np
import pytest

from emo_ray.data.content import LOUD_SOUND, PICTURES, WHOLE_SOUND, Content
from emo_ray.data.corpus_checks import (
    Checked,
    Pair,
    drift_by_chance,
    findings,
    odd_durations,
    same_content,
    total_variation,
)
from emo_ray.data.manifest import Clip

RNG = np.random.default_rng(0)
LABELS = ("x", "y")
ROW = {
    "audio_s": 2.0, "video_status": "ok", "audio_status": "ok", "text_status": "ok", "video_digest": None,
    "audio_digest": None, "face_status": "ok", "faces": 1,
}  # fmt: skip


def unit(*_):
    vector_D = RNG.normal(size=64).astype(np.float32)
    return vector_D / np.linalg.norm(vector_D)


def corpus(rows=(), contents=(), clips=()):
    """Ninety good clips in three splits, with changes by clip_id."""
    names = [f"{split}-{i}" for split in ("train", "validation", "test") for i in range(30)]
    good = {
        name: Clip(name, f"{name}.mp4", text=f"text {name}", label=LABELS[i % 2], split=name.partition("-")[0],
                   speaker=f"{name.partition('-')[0]} {i % 5}", language="en")
        for i, name in enumerate(names)
    }  # fmt: skip
    item_of = {
        name: Content(False, False, -20.0, 0.0, {kind: unit() for kind in (PICTURES, WHOLE_SOUND, LOUD_SOUND)})
        for name in names
    }
    return Checked(
        good | {name: replace(good[name], **values) for name, values in dict(clips).items()},
        {name: {"clip_id": name, **ROW, **dict(rows).get(name, {})} for name in names},
        item_of | {name: replace(item_of[name], **values) for name, values in dict(contents).items()},
        LABELS,
    )


def outcome(checked, check):
    (finding,) = [finding for finding in findings(checked, same_content(checked)) if finding.check == check]
    return finding


def test_a_good_corpus_has_nothing_but_fine_outcomes():
    checked = corpus()
    assert not same_content(checked)
    assert {finding.severity for finding in findings(checked, [])} == {"fine"}


@pytest.mark.parametrize("column", ["video_digest", "audio_digest"])
def test_equal_content_in_two_splits_is_an_error(column):
    checked = corpus(rows={name: {column: "abc"} for name in ("train-1", "test-2", "test-3")})
    finding = outcome(checked, "leakage by content")
    assert (finding.severity, set(finding.details)) == ("error", {"train-1", "test-2", "test-3"})


@pytest.mark.parametrize("kind", [WHOLE_SOUND, LOUD_SOUND])
def test_nearly_equal_sound_in_two_splits_is_an_error(kind):
    vector_D = unit()
    near = vector_D + 0.01 * unit()
    vectors = {"train-1": vector_D, "test-2": near / np.linalg.norm(near)}
    others = {name: {k: unit() for k in (WHOLE_SOUND, LOUD_SOUND)} for name in vectors}
    checked = corpus(contents={n: {"descriptors": others[n] | {kind: v}} for n, v in vectors.items()})
    assert outcome(checked, "leakage by content").severity == "error"
    assert [pair[:2] for pair in same_content(checked)] == [("train-1", "test-2")]


@pytest.mark.parametrize(("sounds", "severity"), [(0, "error"), (1, "error"), (2, "fine")])
def test_pictures_alone_count_unless_both_clips_have_sound(sounds, severity):
    pictures_D = unit()
    contents = {
        name: {"descriptors": {PICTURES: pictures_D, **({WHOLE_SOUND: unit()} if i < sounds else {})}}
        for i, name in enumerate(("train-1", "test-2"))
    }
    assert outcome(corpus(contents=contents), "leakage by content").severity == severity


def test_what_is_doubled_in_a_split_or_unlabelled_is_a_warning_and_contradictions_are_counted():
    rows = {name: {"audio_digest": "abc"} for name in ("train-1", "train-2")}
    rows |= {name: {"audio_digest": "def"} for name in ("test-1", "test-3")}
    checked = corpus(rows, clips={"test-1": {"label": None, "split": "unlabelled"}})
    finding = outcome(checked, "doubled clips")
    assert finding.severity == "warning"
    assert "1 of them" in finding.text
    assert outcome(checked, "leakage by content").severity == "fine"


def test_people_of_one_clip_share_its_sound_without_leaking():
    checked = corpus()
    clips = {f"a#{i}": Clip(f"a#{i}", "a.mp4", split=split) for i, split in enumerate(("train", "test"))}
    rows = {name: {**ROW, "clip_id": name, "audio_digest": "abc"} for name in clips}
    checked = replace(checked, clips=checked.clips | clips, rows=checked.rows | rows)
    assert not same_content(checked)


def test_speakers_in_two_splits_are_an_error_and_unknown_ones_a_note():
    finding = outcome(corpus(clips={"test-1": {"speaker": "train 1"}}), "leakage by speaker")
    assert finding.severity == "error"
    assert "train 1" in finding.text
    assert {"test-1", "train-1"} <= set(finding.details)
    nobody = corpus(clips={name: {"speaker": None} for name in corpus().clips})
    assert outcome(nobody, "leakage by speaker").severity == "note"


@pytest.mark.parametrize(
    ("check", "rows", "contents", "clips"),
    [
        ("durations", {"audio_s": 9.0}, {}, {}),
        ("durations", {"audio_s": 0.1}, {}, {}),
        ("silence", {}, {"loudest_db": -80.0}, {}),
        ("clipping", {}, {"clipped_share": 0.1}, {}),
        ("dark pictures", {}, {"is_dark": True}, {}),
        ("still pictures", {}, {"is_still": True}, {}),
        ("missing transcripts", {}, {}, {"text": " "}),
        ("languages", {}, {}, {"language": None}),
        ("faces", {"faces": 0}, {}, {}),
        ("faces", {"faces": 3}, {}, {}),
        ("unreadable media", {"video_status": "corrupt: cut"}, {}, {}),
        ("empty clips", {f"{name}_status": "missing" for name in ("video", "audio", "text")}, {}, {}),
    ],
)
def test_a_planted_fault_is_told_of_its_clip_alone(check, rows, contents, clips):
    finding = outcome(corpus({"test-7": rows}, {"test-7": contents}, {"test-7": clips}), check)
    assert finding.severity in ("note", "warning")
    assert set(finding.details) == ({"test-7"} if check != "languages" else set())


def test_doubled_transcripts_are_told():
    finding = outcome(corpus(clips={"test-7": {"text": "Text TRAIN-1 "}}), "doubled transcripts")
    assert set(finding.details) == {"test-7", "train-1"}


def test_a_split_of_other_classes_is_told():
    checked = corpus(clips={f"test-{i}": {"label": "x"} for i in range(30)})
    assert outcome(checked, "drift of classes, test").severity == "warning"
    assert outcome(checked, "drift of classes, validation").severity == "fine"


def test_small_classes_of_training_are_told():
    checked = corpus(clips={f"train-{i}": {"label": "x"} for i in range(28)})
    finding = outcome(checked, "classes")
    assert finding.severity == "warning"
    assert "y 1" in finding.text


def test_a_corpus_without_labels_sound_or_faces_is_checked():
    checked = corpus(
        {name: {"audio_s": None, "faces": None, "face_status": None} for name in corpus().clips},
        clips={name: {"label": None, "split": "unlabelled"} for name in corpus().clips},
    )
    notes = {finding.check for finding in findings(checked, []) if finding.severity == "note"}
    assert {"classes", "durations", "faces"} <= notes


def test_total_variation_is_half_the_sum_of_differences():
    assert total_variation({"x": 5, "y": 5}, {"x": 1, "y": 1}) == 0
    assert total_variation({"x": 5}, {"y": 1}) == 1
    assert total_variation({"x": 3, "y": 1}, {"x": 1, "y": 3}) == pytest.approx(0.5)


def test_chance_is_uniform_where_nothing_drifts_and_small_where_something_does():
    draws = [RNG.multinomial(200, [0.5, 0.3, 0.2]) for _ in range(400)]
    chances = [
        drift_by_chance(dict(zip("xyz", first.tolist(), strict=True)), dict(zip("xyz", second.tolist(), strict=True)))
        for first, second in zip(draws[::2], draws[1::2], strict=True)
    ]
    assert 0.01 <= np.mean(np.array(chances) < 0.1) <= 0.2
    assert drift_by_chance({"x": 100, "y": 10}, {"x": 10, "y": 100}) < 1e-9
    assert drift_by_chance({"x": 3}, {"x": 4}) == 1


def test_odd_durations_are_far_from_the_others():
    durations_s = {str(i): value for i, value in enumerate(RNG.uniform(2, 4, 50))}
    assert not odd_durations(durations_s)
    assert set(odd_durations(durations_s | {"long": 60.0, "short": 0.4, "tiny": 0.01})) == {"long", "short", "tiny"}
    assert not odd_durations({})


def test_pairs_name_their_splits():
    assert corpus().splits_of(Pair("train-1", "test-2", "", 1.0)) == ("train", "test")
