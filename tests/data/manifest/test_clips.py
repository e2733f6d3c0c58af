"""Manifests: every format gives the same clips, and every fault is named with its file, row and column."""

import csv
import json
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables_on_disk import clips_of, table, write

from emo_ray.config.data_settings import Data
from emo_ray.config.model_settings import CLIP_FIELDS
from emo_ray.data import manifest
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest.columns import SPLITS

SUFFIXES = ("csv", "tsv", "jsonl", "parquet")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
CELL = st.text(max_size=12)  # any Unicode, line breaks, quotes, tabs and nulls too
PATH = st.from_regex(r"[\w\-. ]{1,12}(/[\w\-. ]{1,8})?", fullmatch=True)
ROW = st.fixed_dictionaries(
    {
        "clip_id": CELL.filter(str.strip),
        "video": PATH | st.just(""),
        "audio": PATH | st.just(""),
        "text": CELL,
        "label": CELL,
        "split": st.sampled_from(["", "train", "Dev", " TEST ", "unlabeled"]),
        "speaker": CELL,
        "language": CELL,
    }
)


@given(rows=st.lists(ROW, min_size=1, max_size=6, unique_by=lambda row: row["clip_id"].strip()))
def test_csv_jsonl_and_parquet_give_equal_clips(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    csv_clips, *others = (clips_of(write(folder / f"clips.{suffix}", rows)) for suffix in SUFFIXES)
    assert all(clips == csv_clips for clips in others)
    for clip, row in zip(csv_clips, rows, strict=True):
        assert clip.clip_id == row["clip_id"].strip()
        assert clip.text == (row["text"] if row["text"].strip() else None)
        assert (clip.label or "", clip.speaker or "") == (row["label"].strip(), row["speaker"].strip())
        assert clip.video == (str(folder / row["video"].strip()) if row["video"].strip() else None)
        assert clip.split in (None, *SPLITS)


@given(
    clips=st.lists(
        st.builds(
            Clip,
            st.text(min_size=1),
            *[st.none() | CELL] * (len(CLIP_FIELDS) - 7),
            *[st.none() | st.floats(0, 1e6)] * 2,
            st.none() | CELL,
            st.none() | st.floats(-1e6, 1e6),
            st.none() | CELL,
            st.none() | st.dictionaries(CELL, st.floats(0.5, 99), min_size=1).map(lambda votes: tuple(votes.items())),
        ),
        unique_by=lambda c: c.clip_id,
    )
)
def test_what_is_written_is_read(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifest") / "split=x" / "manifest.parquet"  # no partition of a data set
    manifest.write(path, clips)
    assert manifest.read(path) == clips


def test_a_byte_order_mark_is_no_part_of_the_first_header(tmp_path):
    expected = [Clip("a", str(tmp_path / "a.mp4"), label="happy")]
    for name, content in {
        "bom.csv": "\ufeffvideo,label\na.mp4,happy\n",
        "bom.jsonl": '\ufeff{"video": "a.mp4", "label": "happy"}\n',
        "quoted.csv": '\ufeff"video","label"\r\n"a.mp4","happy"\r\n',
        "spaces.csv": "video, label\na.mp4, happy \n\n",
        "upper.TSV": "video\tlabel\na.mp4\thappy\n",
        "trailing.csv": "video,label,,\na.mp4,happy,,\n",  # as spreadsheets write it
    }.items():
        assert clips_of(table(tmp_path / name, content)) == expected


def test_cells_may_be_separated_by_semicolons_as_spreadsheets_write_them(tmp_path):
    path = table(tmp_path / "clips.csv", 'video;label;text\na.mp4;happy;"well; yes, I am"\n')
    assert clips_of(path) == [Clip("a", str(tmp_path / "a.mp4"), label="happy", text="well; yes, I am")]
    table(path, "video;label;text\na.mp4;happy;well; yes\n")
    with pytest.raises(ValueError, match=r"clips\.csv: row 1.*4.*3.*semicolons"):
        clips_of(path)
    table(path, "video,label\na;b.mp4,happy\n")
    assert clips_of(path)[0].video == str(tmp_path / "a;b.mp4")


def test_transcripts_keep_their_lines_and_quotes(tmp_path):
    text = ' "Well," she said,\r\n\tso\rit\nis… 悲しい\u2028😢 '
    path = tmp_path / "clips.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text", "label"], [text, "sad"], ["two", "sad"]])
    assert [clip.text for clip in clips_of(path)] == [text, "two"]


@pytest.mark.parametrize(
    ("header", "field", "value"),
    [
        ("emotion", "label", "happy"),
        ("discrete", "label", "happy"),
        ("partition", "split", "test"),
        ("actor", "speaker", "07"),
        ("utterance", "text", "Hello."),
        ("name", "clip_id", "x"),
        ("lang", "language", "zh"),
    ],
)
def test_usual_headers_are_understood_unless_another_column_is_configured(tmp_path, header, field, value):
    cell, expected = ("dev", "validation") if field == "split" else ("x", "x")
    path = write(tmp_path / "clips.csv", [{"video": "a.mp4", header: value, "other": cell}])
    assert getattr(clips_of(path)[0], field) == value
    assert getattr(clips_of(path, columns={field: "other"})[0], field) == expected


def test_a_column_configured_for_one_field_is_not_taken_for_another(tmp_path):
    path = write(tmp_path / "clips.csv", [{"video": "a.mp4", "name": "Ann"}])
    clip = clips_of(path, columns={"speaker": "name"})[0]
    assert (clip.clip_id, clip.speaker) == ("a", "Ann")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_column_is_named_with_those_there_are(tmp_path, suffix):
    path = write(tmp_path / f"clips.{suffix}", [{"video": "a.mp4", "feeling": "happy"}])
    with pytest.raises(ValueError, match=r"data\.columns\.label: .*'emotion', .*video, feeling"):
        clips_of(path, columns={"label": "emotion"})
    path = write(tmp_path / f"other.{suffix}", [{"feeling": "happy", "who": "Ann"}])
    with pytest.raises(ValueError, match=r"feeling, who, .*video, audio, text, file"):
        clips_of(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_unknown_split_is_named_with_its_column_and_the_setting_that_explains_it(tmp_path, suffix):
    rows = [{"video": f"{i}.mp4", "partition": split} for i, split in enumerate(["train", "holdout", "", "holdout"])]
    path = write(tmp_path / f"clips.{suffix}", rows)
    with pytest.raises(
        ValueError, match=r"clips\..*column partition: .*'holdout' in 2 rows.*train, .*split_map=.holdout:"
    ):
        clips_of(path)
    assert [clip.split for clip in clips_of(path, split_map={"holdout": "test"})] == ["train", "test", None, "test"]


def test_many_problems_are_counted_not_listed(tmp_path):
    lines = [json.dumps({"video": [i]}) for i in range(100)]
    with pytest.raises(ValueError, match=r"row 5, .*; and 95 more$") as error:
        clips_of(table(tmp_path / "clips.jsonl", "\n".join(lines)))
    assert "row 6" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "no rows"),
        ("a.csv", b"video,label\n", "no rows"),
        ("a.csv", b"video,label\na.mp4\n", r"row 1: .*1 cells, expected 2"),
        ("a.csv", b"video,text\na.mp4,x\nb.mp4,Well, yes\n", r"row 2: .*3 cells, expected 2"),
        ("a.csv", b"video,label,label\na.mp4,x,y\n", "'label' twice"),
        ("a.csv", b'video,text\na.mp4,"x\n', "csv: unexpected end of data"),
        ("a.csv", b'video,text\na.mp4,"x" y\n', "not readable as csv"),
        ("a.csv", bytes(range(256)), "not UTF-8"),
        ("a.csv", b"\0" * 100, "no rows"),
        ("a.csv", "video,label\na,x\n".encode("utf-16"), r"data\.encoding.*utf-16 \('video,"),
        ("a.csv", b"a.mp4,happy\nb.mp4,sad\n", "a.mp4, happy, .*video, audio, text, file"),
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b"{}\n{}\n", "no rows"),
        ("a.jsonl", b'{"video": "a"}\n{"video": \n', "row 2: not JSON"),
        ("a.jsonl", b'["a"]\n', "row 1: .*list"),
        ("a.jsonl", b"[" * 100_000, "row 1: not JSON"),
        ("a.jsonl", b'{"video": 1' + b"0" * 9999 + b"}", "row 1: not JSON"),
        ("a.jsonl", bytes(range(256)), "not UTF-8"),
        ("a.jsonl", b'{"video": ["a"]}\n', "row 1, column video: .*list"),
        ("a.jsonl", b'{"file": ["a"]}\n', "row 1, column file: .*list"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "row 1, column text: .*surrogate"),
        ("a.parquet", b"", "not readable as parquet"),
        ("a.parquet", b"PAR1" + bytes(range(256)) * 4 + b"PAR1", "not readable as parquet"),
        *((f"a.{suffix}", POINTER, "a.* LFS pointer.*git lfs pull") for suffix in SUFFIXES),
        ("a.xlsx", b"PK", r"'\.xlsx', .*\.csv"),
    ],
)
def test_bad_tables_are_named_with_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        clips_of(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


HEADERS = st.sampled_from(["clip_id", "video", "file", "text", "label", "split", "speaker", "start", "x", ""]) | CELL
WORDS = (
    st.sampled_from(["nan", "NA", "Unknown", "a.mp4", "a.wav", "train", "dev", "eval", "test1", "Joy", "joy", "", " "])
    | CELL
)
JSON_CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS, lambda c: st.lists(c, max_size=2)
)
CONTENTS = st.one_of(
    st.binary(max_size=200).map(lambda content: ("csv", content)),
    st.binary(max_size=200).map(lambda content: ("parquet", b"PAR1" + content + b"PAR1")),
    st.lists(st.lists(HEADERS | WORDS, max_size=5), max_size=6).map(
        lambda rows: ("csv", "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass"))
    ),
    st.lists(st.dictionaries(HEADERS, JSON_CELLS, max_size=5), max_size=5).map(
        lambda rows: ("jsonl", "\n".join(map(json.dumps, rows)).encode())
    ),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.dictionaries(
            st.sampled_from(CLIP_FIELDS),
            st.none() | st.sampled_from(["text", "{text}/{label}", "x"]) | st.just(["text", "x"]),
        ),
        "encoding": st.sampled_from([None, "gb18030", "utf-16"]),
        "split_map": st.dictionaries(WORDS, st.none() | st.sampled_from(SPLITS), max_size=3),
        "label_map": st.dictionaries(WORDS.filter(str.strip), st.none() | st.just("joy"), max_size=3),
        "merge_labels": st.booleans(),
        "folds": st.sampled_from([None, 3]),
    },
)


@given(content=CONTENTS, settings=SETTINGS, bare=st.booleans())
def test_any_content_is_clips_or_one_message(content, settings, bare, tmp_path_factory):
    suffix, table_bytes = content
    path = tmp_path_factory.mktemp("any") / f"clips.{suffix}"
    path.write_bytes(table_bytes)
    message = ""
    try:
        clips, notes = read_corpus(Data(manifest=str(path), **settings), bare)
    except ValueError as error:
        message = str(error)
    else:
        assert len({clip.clip_id for clip in clips}) == len(clips) > 0
        assert all(isinstance(note, str) for note in notes)
        manifest.write(path.with_name("again.parquet"), clips)
        assert manifest.read(path.with_name("again.parquet")) == clips
    assert not message or message.startswith(str(path))


@given(places=st.lists(st.integers(0, 4000), min_size=1, max_size=20), values=st.binary(min_size=20, max_size=20))
def test_a_damaged_parquet_table_is_read_or_is_one_message(places, values, damaged_folder):
    path, content = damaged_folder / "clips.parquet", bytearray((damaged_folder / "good.parquet").read_bytes())
    for place, value in zip(places, values, strict=False):
        content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(ValueError):
        clips_of(path)


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    rows = [{"video": f"{i}.mp4", "text": f"say {i}", "label": "happy"} for i in range(50)]
    write(folder / "good.parquet", rows)
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_that_is_there_twice_is_named_in_every_format(tmp_path, suffix):
    path = tmp_path / f"clips.{suffix}"
    if suffix == "jsonl":
        pytest.skip("an object's keys are distinct")
    if suffix == "parquet":
        pq.write_table(pa.table([["a.mp4"], ["x"], ["y"]], names=["video", "label", "label"]), path)
    else:
        table(path, "video,label,label\na.mp4,x,y\n".replace(",", "\t" if suffix == "tsv" else ","))
    with pytest.raises(ValueError, match="'label' twice"):
        clips_of(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_in_which_nothing_stands_are_skipped_and_the_others_keep_their_numbers(tmp_path, suffix):
    rows = [{"text": text, "label": label} for text, label in (("hm", "x"), ("", " "), ("", ""), ("oh", "y"), ("", ""))]
    clips = clips_of(write(tmp_path / f"clips.{suffix}", rows))
    assert [(clip.clip_id, clip.text) for clip in clips] == [("row-1", "hm"), ("row-4", "oh")]


def test_lines_of_separators_are_rows_in_which_nothing_stands(tmp_path):
    path = table(tmp_path / "clips.csv", "text,label\nhm,x\n,\n,,,,\n , \n \noh,y\n,\n")
    assert [clip.text for clip in clips_of(path)] == ["hm", "oh"]


def test_a_table_that_is_not_there(tmp_path):
    for path in (tmp_path / "clips.csv", tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            clips_of(path)


def test_a_parquet_table_of_bytes_or_without_rows(tmp_path):
    path = tmp_path / "clips.parquet"
    pq.write_table(pa.table({"video": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match="no rows"):
        clips_of(path)
    pq.write_table(pa.table({"video": [b"a"]}), path)
    with pytest.raises(ValueError, match=r"row 1, column video: .*bytes"):
        clips_of(path)


def test_absent_cells_are_absent_in_every_spelling(tmp_path):
    expected = [Clip("1", str(tmp_path / "a.mp4"), label="x"), Clip("2", str(tmp_path / "b.mp4"))]
    columns = {"clip_id": [1, 2], "video": ["a.mp4", "b.mp4"], "audio": [None, float("nan")], "label": ["x", None]}
    schema = pa.schema(
        {
            "clip_id": pa.int8(),
            "video": pa.string(),
            "audio": pa.float64(),
            "label": pa.dictionary(pa.int8(), pa.string()),
        }
    )
    pq.write_table(pa.table(columns, schema), tmp_path / "a.parquet")
    assert clips_of(tmp_path / "a.parquet") == expected
    lines = (
        '{"clip_id": 1, "video": "a.mp4", "audio": NaN, "label": "x", "text": " "}\n\n{"clip_id": 2, "video": "b.mp4"}'
    )
    assert clips_of(table(tmp_path / "a.jsonl", lines)) == expected
    lines = "clip_id,video,audio,text,label\n1,a.mp4,, ,x\n2,b.mp4,,\t,\n"
    assert clips_of(table(tmp_path / "a.csv", lines)) == expected


def test_a_file_column_goes_to_video_or_audio_by_suffix(tmp_path):
    path = table(tmp_path / "clips.csv", "file,text\na.WAV,x\nb.mp4,x\nc.flac,x\nd.strange,x\n,x\n")
    clips = clips_of(path)
    assert [(bool(clip.video), bool(clip.audio)) for clip in clips] == [
        (False, True),
        (True, False),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert clips[0].audio == str(tmp_path / "a.WAV")
    assert [clip.clip_id for clip in clips] == ["a", "b", "c", "d", "row-5"]
    pq.write_table(pa.table({"file": [float("nan")], "text": ["x"]}), tmp_path / "nan.parquet")
    assert clips_of(tmp_path / "nan.parquet") == [Clip("row-1", text="x")]
    path = table(tmp_path / "both.csv", "video,file\na.mp4,b.wav\n")
    assert clips_of(path) == [Clip("a", str(tmp_path / "a.mp4"))]  # a video column needs no other


def test_paths_start_at_the_root_and_uris_are_left_alone(tmp_path, monkeypatch):
    rows = [
        {"video": "x/a.mp4", "audio": "s3://bucket/x/a.wav"},
        {"video": "/abs/b.mp4", "audio": "gs://b/c d.wav?v=1"},
    ]
    path = write(tmp_path / "clips.csv", rows)
    for root, start in ((None, str(tmp_path)), (Path("/media"), "/media"), (Path("rel"), str(tmp_path / "rel"))):
        monkeypatch.chdir(tmp_path)
        relative, absolute = clips_of(path, root, outside_root=True, schemes=("s3", "gs"))
        assert (relative.video, relative.audio) == (f"{start}/x/a.mp4", "s3://bucket/x/a.wav")
        assert (absolute.video, absolute.audio) == ("/abs/b.mp4", "gs://b/c d.wav?v=1")


def test_clips_are_named_after_their_files(tmp_path):
    def ids(content):
        path = table(tmp_path / "clips.csv", content)
        return [clip.clip_id for clip in clips_of(path, Path("/data"), outside_root=True, schemes=("s3",))]

    assert ids("video,audio\nx/a.mp4,\n,y/b.wav\ns3://bucket/c.d.mp4,\n") == ["a", "b", "c.d"]
    # Names that repeat: the paths below the root, so that they do not change with where the corpus lies.
    assert ids("video\nx/a.mp4\ny/a.mp4\n/else/where/a.mp4\ns3://bucket/a.mp4\n") == [
        "x/a",
        "y/a",
        "/else/where/a",
        "s3://bucket/a",
    ]
    assert ids("text\nHello\nHello\n") == ["row-1", "row-2"]
    assert ids("clip_id,video\nan id,x/a.mp4\n,x/b.mp4\n") == ["an id", "b"]


def test_real_manifests_are_read(shared_data):
    clips = clips_of(shared_data / "composite/clips.csv", shared_data / "composite/clips")
    assert len(clips) == 560
    assert {clip.split for clip in clips} == {"train", "test"}
    assert len({clip.label for clip in clips}) == 7
    assert all(Path(clip.video).is_file() and clip.audio is None and clip.text for clip in clips)
    clips = clips_of(shared_data / "ravdess_speech/manifest.csv")
    assert len(clips) == len({clip.clip_id for clip in clips}) == 720
    assert len({clip.speaker for clip in clips}) == 12
    assert all(Path(clip.audio).is_file() and clip.video is None for clip in clips)
    assert all(len(astuple(clip)) == len(CLIP_FIELDS) for clip in clips)


def test_lines_of_ever_new_keys_are_refused(tmp_path):
    lines = [json.dumps({"clip_id": str(i), "text": "x", **{f"key{i}-{j}": 1 for j in range(10)}}) for i in range(2000)]
    with pytest.raises(ValueError, match=r"wide.jsonl: row 100: .*1000"):
        clips_of(table(tmp_path / "wide.jsonl", "\n".join(lines)))
