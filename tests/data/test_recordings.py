"""Recordings to utterances: however their sound is cut into stretches, and whatever of it cannot be decoded."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from recording_files import voices, write_sound
from remuxing import garbage, remuxed

from emo_ray.config.media_settings import Media, Segment
from emo_ray.data import recordings, shards
from emo_ray.data.manifest import Clip
from emo_ray.data.media import RATE_HZ
from emo_ray.trouble import PlaceTrouble


def utterances(path):
    return recordings.utterances(str(path), Segment(), Media())


@pytest.mark.parametrize("suffix", ["wav", "m4a", "mp3", "ts"])
def test_every_voice_is_an_utterance_however_the_sound_is_cut(tmp_path, suffix, monkeypatch):
    samples_S, truth = voices(3)
    path = write_sound(tmp_path / f"recording.{suffix}", samples_S)
    spans, status = utterances(path)
    assert status == "ok"
    assert len(spans) == len(truth)
    for span, (start_s, end_s) in zip(spans, truth, strict=True):
        assert start_s - 0.2 <= span.start_s < span.end_s <= end_s + 0.2
    for stretch_s in (1.0, 2.7):
        monkeypatch.setattr(recordings, "STRETCH_S", stretch_s)
        assert np.allclose(utterances(path)[0], spans, atol=0.04)  # a window of the model


def test_a_few_milliseconds_that_a_codec_names_and_does_not_hold_are_no_stretch(tmp_path, monkeypatch):
    """An mp3 of 8 s says that it is 8.03 s long: its last stretch could not be decoded, one of so few."""
    monkeypatch.setattr(recordings, "STRETCH_S", 1.0)
    path = write_sound(tmp_path / "recording.mp3", voices(2)[0])
    assert recordings.sound_s(str(path), Media()) > 8
    spans, status = utterances(path)
    assert (len(spans), status) == (2, "ok")


def test_what_holds_no_speech_has_a_status(tmp_path, media_files):
    noise_S = np.random.default_rng(0).normal(0, 3000, 2 * RATE_HZ).astype(np.int16)
    assert utterances(write_sound(tmp_path / "noise.wav", noise_S)) == ([], recordings.NO_SPEECH)
    assert utterances(media_files["silent"]) == ([], "missing: no sound track")
    assert utterances(tmp_path / "nowhere.wav") == ([], "missing: no such file")
    assert utterances(media_files["text"])[1].startswith("corrupt")
    assert recordings.utterances(None, Segment(), Media()) == ([], "missing")


@pytest.mark.parametrize(("bad_s", "is_usable"), [(0.4, True), (9.0, False)])
def test_bad_packets_cost_their_stretch_or_many_of_them_the_recording(tmp_path, monkeypatch, bad_s, is_usable):
    monkeypatch.setattr(recordings, "STRETCH_S", 1.0)
    samples_S, truth = voices(3)
    path = write_sound(tmp_path / "whole.m4a", samples_S)
    packets_a_s = RATE_HZ / 1024

    def change(number, packet):
        return garbage(packet) if number / packets_a_s < bad_s else packet

    spans, status = utterances(remuxed(path, tmp_path / "damaged.m4a", change))
    if is_usable:
        assert status.startswith("ok: ")
        assert "1 of 12 stretches" in status
        assert len(spans) == len(truth)
    else:
        assert (spans, status.partition(":")[0]) == ([], "corrupt")


def test_a_part_holds_a_row_for_each_utterance_or_says_why_there_is_none(tmp_path, media_files):
    samples_S, truth = voices(2)
    recording = Clip("recording", audio=str(write_sound(tmp_path / "recording.wav", samples_S)))
    for name, clip in {"spoken": recording, "silent": Clip("silent", str(media_files["silent"]))}.items():
        recordings.write_part(tmp_path / name, *shards.identified([clip], "sample"), Segment(), Media())
    rows = pq.read_table(tmp_path / "spoken").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * len(truth)
    assert all(row["start_s"] < row["end_s"] for row in rows)
    (row,) = pq.read_table(tmp_path / "silent").to_pylist()
    assert row == {"start_s": None, "end_s": None, "status": "missing: no sound track"}


def test_a_part_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "part").write_text("of another run")
    recordings.write_part(tmp_path / "part", *shards.identified([Clip("gone")], "sample"), Segment(), Media())
    assert (tmp_path / "part").read_text() == "of another run"


def test_a_recording_that_changes_meanwhile_is_an_error(tmp_path):
    path = write_sound(tmp_path / "recording.wav", voices(1)[0])
    (planned,) = shards.identified([Clip("recording", audio=str(path))], "sample")
    write_sound(path, voices(2)[0])
    with pytest.raises(PlaceTrouble, match=r"recording\.wav"):
        recordings.write_part(tmp_path / "part", planned, Segment(), Media())
    assert not (tmp_path / "part").exists()
