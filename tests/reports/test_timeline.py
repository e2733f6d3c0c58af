"""Emotion over time as CSV and subtitles: every utterance is there, and no words become markup, times or commands."""

import csv
import io
import re
from dataclasses import replace

import av
import pytest

from emo_ray import durable
from emo_ray.reports.timeline import NO_PREDICTION, Timeline, Utterance, csv_rows, file_names, webvtt

HOSTILE = "<i>a & b</i>\n\n00:00:01.000 --> 00:00:02.000\nnew cue\x1b[2J"


def utterance(start_s, end_s, probabilities=(0.25, 0.75), text="the words", person="", **statuses):
    return Utterance(f"talk-{start_s}", start_s, end_s, text, person, probabilities, {"status": "ok", **statuses})


def timeline(*utterances, labels=("sad", "happy")):
    return Timeline("talk.mp4", labels, utterances)


def cues(text):
    """(start in s, duration in s, words) as FFmpeg reads them."""
    with av.open(io.BytesIO(text.encode()), format="webvtt") as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        return [
            (float(p.pts * p.time_base), float(p.duration * p.time_base), p.decode()[0].dialogue.decode())
            for p in packets
        ]


def test_a_player_shows_the_emotion_and_the_words_of_each_utterance():
    text = webvtt(timeline(utterance(0.5, 2.25), utterance(7325.0415, 7327, (0.9, 0.1), person="Anna")))
    assert text.startswith("WEBVTT\n\n")
    assert "00:00:00.500 --> 00:00:02.250\n[happy 75 %]\nthe words\n" in text
    assert "02:02:05.042 --> 02:02:07.000\n[sad 90 %]\nAnna: the words\n" in text
    first, second = cues(text)
    assert first == (0.5, 1.75, "[happy 75 %]\nthe words")
    assert second == (pytest.approx(7325.042), pytest.approx(1.958), "[sad 90 %]\nAnna: the words")


def everyone(*seen, start_s=0.5, person="", **statuses):
    """The rows of a clip in which these people are seen, each less happy than the one before."""
    people = [(0.1 + 0.1 * i, 0.9 - 0.1 * i) for i in range(len(seen))]
    rows = [utterance(start_s, start_s + 2, pair, person=person, **statuses) for pair in people]
    return [replace(row, clip_id=f"talk#{name}", seen=name) for row, name in zip(rows, seen, strict=True)]


def test_everyone_who_is_seen_has_a_line_of_one_cue_and_a_row():
    rows = [*everyone("person 1", "person 2", person="Anna"), utterance(0.5, 2.5), *everyone("Ben", start_s=3)]
    both = timeline(*rows)
    assert [len(moment) for moment in both.moments] == [2, 1, 1]
    first, nobody, last = cues(webvtt(both))
    assert first == (0.5, 2.0, "[person 1: happy 90 %]\n[person 2: happy 80 %]\nAnna: the words")
    assert nobody == (0.5, 2.0, "[happy 75 %]\nthe words")
    assert last == (3.0, 2.0, "[Ben: happy 90 %]\nthe words")
    header, *table = csv_rows(both)
    people = [dict(zip(header, row, strict=True))["person"] for row in table]
    assert people == ["person 1", "person 2", "", "Ben"]


def test_a_recording_without_utterances_has_a_header_alone():
    empty = Timeline("talk.mp4", ("sad", "happy"), [], "No utterance: no speech.")
    assert len(csv_rows(empty)) == 1
    assert cues(webvtt(empty)) == []
    assert empty.end_s == 0


def test_words_cannot_be_tags_times_or_further_cues():
    text = webvtt(timeline(utterance(0, 1, text=HOSTILE, person=HOSTILE), labels=("sad", HOSTILE)))
    assert text.count("-->") == 1
    assert "<" not in text
    assert "\x1b" not in text
    assert text.count("\n\n") == 1  # between the header and the only cue
    ((_, _, shown),) = cues(text)
    assert shown.count("<i>a & b</i> 00:00:01.000 --> 00:00:02.000 new cue[2J") == 3


def test_an_utterance_that_nothing_could_be_predicted_of_keeps_its_cue_and_its_row():
    lost = timeline(utterance(0, 1, None, status="no usable modality"), utterance(1, 1.0001))
    assert f"[{NO_PREDICTION}]\nthe words" in webvtt(lost)
    assert "00:00:01.000 --> 00:00:01.001" in webvtt(lost)  # a cue without duration is none
    header, row, _ = csv_rows(lost)
    assert dict(zip(header, row, strict=True)) == {
        "recording": "talk.mp4", "start_s": 0, "end_s": 1, "clip_id": "talk-0", "label": None, "p_sad": None,
        "p_happy": None, "text": "the words", "person": "", "status": "no usable modality",
    }  # fmt: skip


def test_csv_holds_every_number_and_no_formula(tmp_path):
    rows = csv_rows(timeline(utterance(1, 2, text="=1+1", person="Anna", video_status="ok", audio_status="missing")))
    durable.write_csv(tmp_path / "talk.csv", rows)
    with (tmp_path / "talk.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["label"], row["p_sad"], row["p_happy"]) == ("happy", "0.25", "0.75")
    assert (row["start_s"], row["end_s"], row["person"], row["text"]) == ("1", "2", "Anna", "'=1+1")
    assert (row["video_status"], row["audio_status"]) == ("ok", "missing")


RECORDINGS = (
    "../../etc/passwd", "..", ".hidden.mp4", "", "a/b.mp4", "B.MP4", "b-2.wav", "-rf.mp4", "a\\c.mp4", "d:\x1b<e>.mp4",
    "采访 一.mp4", "x" * 300 + ".mp4", "é" * 200, "CON.mp4", "talk.v2.mp4", "$(id).mp4", "e\u0301.mp4", "\u00e9.mp4",
)  # fmt: skip


def test_names_of_files_are_safe_and_differ():
    names = file_names(RECORDINGS)
    assert len({name.casefold() for name in names}) == len(RECORDINGS)
    assert names[4:7] == ["b", "B-2", "b-2-2"]
    assert names[10] == "采访 一"
    assert names[14] == "talk.v2"
    for name in names:
        assert re.fullmatch(r"[^\W_][\w .,()+@=-]*|_[\w .,()+@=-]*", name)
        assert name not in (".", "..")
        assert len(name.encode()) < 130
    assert file_names(RECORDINGS) == names
