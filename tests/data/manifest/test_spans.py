"""Spans of recordings in tables: whose columns are read, in which units, and what is refused."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables_on_disk import clips_of, table, write

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.corpora.reader import read_corpus


def spans(path, **settings):
    return [clip.span_s for clip in clips_of(path, **settings)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_of_one_recording_are_clips_of_their_own(tmp_path, suffix):
    rows = [
        {"video": "a.mp4", "start_s": "0", "end_s": "1.5"},
        {"video": "a.mp4", "start_s": "1.5", "end_s": "1e2"},
        {"video": "b.mp4", "start_s": "", "end_s": ""},
    ]
    clips, notes = read_corpus(Data(manifest=str(write(tmp_path / f"clips.{suffix}", rows))))
    assert [(clip.clip_id, clip.span_s) for clip in clips] == [
        ("a-0-1.5", (0.0, 1.5)),
        ("a-1.5-100", (1.5, 100.0)),
        ("b", None),
    ]
    assert notes == []


def test_other_columns_are_spans_where_they_are_named(tmp_path):
    path = table(tmp_path / "clips.csv", "file,from,to\na.wav,1,2\na.wav,00:01:00.5,01:00:00\n")
    assert spans(path, columns={"start_s": "from", "end_s": "to"}) == [(1, 2), (60.5, 3600)]
    assert spans(path, columns={"start_s": None, "end_s": None}) == [None, None]


def test_times_of_pandas_are_read_as_audformat_writes_them(tmp_path):
    lines = ["file,start,end,emotion", "a.wav,0 days 00:00:01.5,0 days 00:01:03.250000,happy", "b.wav,0 days,NaT,sad"]
    path = table(tmp_path / "db.emotion.csv", "\n".join(lines))
    assert spans(path) == [(1.5, 63.25), None]
    times = pa.array([timedelta(seconds=1.5), timedelta(0)], pa.duration("ns"))
    ends = pa.array([timedelta(days=1), None], pa.duration("ns"))
    pq.write_table(pa.table({"file": ["a.wav", "b.wav"], "start": times, "end": ends}), tmp_path / "db.parquet")
    assert spans(tmp_path / "db.parquet") == [(1.5, 86400.0), None]


def test_numbers_called_start_and_end_have_no_unit_and_are_not_read(tmp_path):
    path = table(tmp_path / "clips.csv", "file,start,end\na.wav,1500,2500\n")
    clips, notes = manifest.read_table(path, Data())
    assert clips[0].span_s is None
    assert any("start, end" in note and "data.columns.start_s" in note for note in notes)


def test_offset_and_duration_are_read_as_nemo_writes_them(tmp_path):
    lines = [
        '{"audio_filepath": "a.wav", "offset": 1.5, "duration": 2, "text": "x"}',
        '{"audio_filepath": "a.wav", "offset": 3.5, "duration": 0.25, "text": "y"}',
        '{"audio_filepath": "b.wav", "duration": 2, "text": "z"}',
    ]
    clips = clips_of(table(tmp_path / "train.jsonl", "\n".join(lines)))
    assert [(clip.audio, clip.span_s) for clip in clips] == [
        (str(tmp_path / "a.wav"), (1.5, 3.5)),
        (str(tmp_path / "a.wav"), (3.5, 3.75)),
        (str(tmp_path / "b.wav"), None),
    ]


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("1", "", "start_s without end_s"),
        ("", "2", "end_s without start_s"),
        ("2", "1", "from 2 to 1 s"),
        ("1", "1", "from 1 to 1 s"),
        ("-1", "1", "from -1 to 1 s"),
        ("0", "inf", "inf"),
        ("Infinity", "1", "inf"),
        ("0", "1;5", "'1;5'"),
        ("one", "2", "'one'"),
        ("-1 days +23:59:59", "2", "'-1 days"),
    ],
)
def test_what_is_no_span_is_an_error_that_names_its_row(tmp_path, start, end, problem):
    path = table(tmp_path / "clips.csv", f"clip_id,video,start_s,end_s\na,a.mp4,0,1\nb,a.mp4,{start},{end}\n")
    with pytest.raises(ValueError, match=r"clips\.csv: row 2, column \w+_s: ") as error:
        clips_of(path)
    assert problem in str(error.value)


@given(start_s=st.floats(0, 1e5), length_s=st.floats(1e-3, 1e5))
def test_any_numbers_are_read_as_they_are(start_s, length_s, tmp_path_factory):
    path = tmp_path_factory.mktemp("spans") / "clips.csv"
    write(path, [{"clip_id": "a", "video": "a.mp4", "start_s": start_s, "end_s": start_s + length_s}])
    assert spans(path) == [(start_s, start_s + length_s)]
    manifest.write(path.with_suffix(".parquet"), clips_of(path))
    assert manifest.read(path.with_suffix(".parquet")) == clips_of(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.mp4,0,1", "a.mp4,,"], r"a\.mp4 in 2 rows.*start_s"),
        (["a.mp4,0,1", "./a.mp4,0,1"], r"a\.mp4 in 2 rows.*each span once"),
    ],
)
def test_rows_of_one_file_must_all_be_different_spans(tmp_path, lines, message):
    numbered = [f"c{i},{line}" for i, line in enumerate(lines)]
    path = table(tmp_path / "clips.csv", "\n".join(["clip_id,video,start_s,end_s", *numbered]))
    with pytest.raises(ValueError, match=message):
        read_corpus(Data(manifest=str(path)))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_turns_are_numbers_and_dialogues_are_names(tmp_path, suffix):
    rows = [
        {"clip_id": "a", "text": "x", "dialogue": "7", "turn": "2"},
        {"clip_id": "b", "text": "x", "dialogue": "Ses01", "turn": "-1.5"},
        {"clip_id": "c", "text": "x", "dialogue": "unknown", "turn": "NaN"},
        {"clip_id": "d", "text": "x", "dialogue": "", "turn": ""},
    ]
    clips, notes = read_corpus(Data(manifest=str(write(tmp_path / f"clips.{suffix}", rows))))
    assert [(clip.dialogue, clip.turn) for clip in clips] == [("7", 2.0), ("Ses01", -1.5), (None, None), (None, None)]
    assert any("dialogue: 'unknown' in 1 clips" in note for note in notes)


def test_a_turn_that_is_no_number_is_an_error_and_means_nothing_without_a_dialogue(tmp_path):
    path = table(tmp_path / "clips.csv", "file,turn,talk\na.wav,left,t\n")
    assert clips_of(path)[0].turn is None
    with pytest.raises(ValueError, match=r"row 1, column turn: found 'left'.*data\.columns\.turn=null"):
        clips_of(path, columns={"dialogue": "talk"})
    assert clips_of(path, columns={"dialogue": "talk", "turn": None})[0].dialogue == "t"
