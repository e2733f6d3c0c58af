"""segment: a folder of recordings to a manifest of utterances, which goes on where it stopped and answers from disk."""

import shutil

import pyarrow.parquet as pq
import pytest
from recording_files import voices, write_sound

from emo_ray.config import override
from emo_ray.data import recordings
from emo_ray.stages.decoding.corpus import plan_corpus
from emo_ray.stages.segment import LongRecordings, segment

TRUTH = {"one": 1, "two/three": 3}  # recording -> voices in it


@pytest.fixture(scope="module")
def folder(tmp_path_factory, media_files):
    folder = tmp_path_factory.mktemp("recordings")
    for name, count in TRUTH.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        write_sound(path, voices(count)[0])
    write_sound(folder / "silence.wav", voices(1)[0][:8000])
    (folder / "broken.mp4").write_bytes(media_files["truncated"].read_bytes())
    return folder


@pytest.fixture(scope="module")
def config(tiny_config, folder, tmp_path_factory):
    store = str(tmp_path_factory.mktemp("segments"))
    return override(tiny_config, {"data.manifest": str(folder), "store.root": store, "tracking.enabled": False})


@pytest.fixture(scope="module")
def result(ray_session, config):
    return segment(config)


def test_each_utterance_is_a_clip_and_a_recording_without_any_says_why(result, folder):
    rows = pq.read_table(result.path).to_pylist()
    rows_of = {name: [row for row in rows if row["recording"] == name] for name in ("one", "two/three")}
    for name, count in TRUTH.items():
        spans = [(row["start_s"], row["end_s"]) for row in rows_of[name]]
        assert [row["clip_id"] for row in rows_of[name]] == [f"{name}-{i:04d}" for i in range(1, count + 1)]
        assert all(start < end for start, end in spans)
        assert spans == sorted(spans)
        assert {row["audio"] for row in rows_of[name]} == {str(folder / f"{name}.wav")}
        assert {row["status"] for row in rows_of[name]} == {"ok"}
    others = {row["clip_id"]: row for row in rows if row["order"] is None}
    assert others.keys() == {"silence", "broken"}
    assert others["silence"]["status"] == recordings.NO_SPEECH
    assert others["broken"]["status"].startswith("corrupt")
    assert all(row["start_s"] is row["end_s"] is None for row in others.values())


def test_it_counts_and_names_what_could_not_be_used(result):
    assert result.content["recordings"] == 4
    assert result.content["utterances"] == sum(TRUTH.values())
    assert result.content["statuses"] == {"ok": 2, recordings.NO_SPEECH: 1, "corrupt": 1}
    assert any("broken" in line for line in result.lines)


def test_a_second_run_does_nothing_and_one_that_lost_parts_makes_the_same_bytes(result, config):
    before = result.path.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in result.path.parents[1].rglob("*.parquet")}
    assert segment(config).path == result.path
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    parts = sorted(result.path.parents[1].glob("parts-*/part-*.parquet"))
    assert len(parts) == 4
    for path in (result.path.with_name("meta.json"), result.path, parts[0]):  # as a killed run leaves them
        path.unlink()
    assert segment(config).path.read_bytes() == before
    assert [path.stat().st_mtime_ns == stamps[path] for path in parts] == [False, True, True, True]


def test_other_settings_make_other_utterances(result, config):
    short = segment(override(config, {"segment.max_s": 1.0}))
    assert short.path != result.path
    assert short.content["utterances"] > result.content["utterances"]


def test_long_recordings_of_a_folder_are_cut_and_short_ones_left(result, config, folder):
    few_seconds = override(config, {"media.max_audio_s": 6.0})
    clips = {clip.clip_id: clip for clip in plan_corpus(few_seconds, LongRecordings()).clips}
    assert clips.keys() == {"one", "silence", "broken", *(f"two/three-{i:04d}" for i in (1, 2, 3))}
    assert clips["one"].span_s is None
    start_s, end_s = clips["two/three-0003"].span_s
    assert 8 < start_s < end_s < 12.5
    assert {clip.span_s for clip in plan_corpus(config, LongRecordings()).clips} == {None}


def test_lengths_are_measured_once_and_recordings_without_speech_are_known(result, config, folder, capsys):
    few_seconds = override(config, {"media.max_audio_s": 0.4})
    for lengths in result.path.parents[1].glob("lengths-*"):
        shutil.rmtree(lengths)
    first, second, of_manifest, without = (LongRecordings() for _ in range(4))
    plan_corpus(few_seconds, first)
    assert "measuring sound" in capsys.readouterr().err
    plan_corpus(few_seconds, second)
    assert "measuring sound" not in capsys.readouterr().err
    silent = {str(folder / "silence.wav"): "no speech"}
    assert first.unspoken == second.unspoken == silent
    plan_corpus(override(config, {"data.manifest": str(result.path), "data.root": str(folder)}), of_manifest)
    assert of_manifest.unspoken.items() > silent.items()  # what is broken is told as well
    plan_corpus(override(few_seconds, {"segment.auto": False}), without)
    assert without.unspoken == {}


def test_the_manifest_is_taken_as_a_corpus(result, config, folder):
    words = {"data.manifest": str(result.path), "data.root": str(folder)}
    clips = plan_corpus(override(config, words)).clips
    rows = pq.read_table(result.path).to_pylist()
    assert {(clip.clip_id, *(clip.span_s or (None, None))) for clip in clips} == {
        (row["clip_id"], row["start_s"], row["end_s"]) for row in rows
    }


def test_a_folder_without_recordings_is_an_error(config, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="notes"):
        segment(override(config, {"data.manifest": str(tmp_path)}))
