"""Which columns make a clip: configured ones, patterns over several, columns left unread; and the names of splits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables_on_disk import clips_of, table, write

from emo_ray.config import Config, dump, load, override, parse_overrides, recipe
from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.manifest.columns import SPLITS, split_names

ROWS = [{"file": f"{i}.wav", "emotion": "happy", "speaker": "Ann", "partition": "train"} for i in range(3)]
PART = st.from_regex(r"[A-Za-z0-9\-]{1,6}", fullmatch=True)


@pytest.mark.parametrize(("field", "attribute"), [("speaker", "speaker"), ("label", "label"), ("split", "split")])
def test_a_field_is_unread_whether_its_column_would_be_taken_by_name_or_was_configured(tmp_path, field, attribute):
    path = write(tmp_path / "clips.csv", ROWS)
    assert {getattr(clip, attribute) for clip in clips_of(path)} != {None}
    assert {getattr(clip, attribute) for clip in clips_of(path, columns={field: None})} == {None}
    config = load("mini", parse_overrides([f"data.columns.{field}=emotion", f"data.columns.{field}=null"]))
    assert config.data.columns == {field: None}


def test_media_that_are_unread_are_unread_in_a_column_of_files_too(tmp_path):
    path = table(tmp_path / "clips.csv", "file,text\na.mp4,x\nb.wav,y\n")
    clips = clips_of(path, columns={"video": None})
    assert [(clip.video, clip.audio) for clip in clips] == [(None, None), (None, str(tmp_path / "b.wav"))]
    clips = clips_of(path, columns={"video": None, "audio": None})
    assert {(clip.video, clip.audio) for clip in clips} == {(None, None)}


@given(names=st.lists(st.tuples(PART, PART), min_size=1, max_size=5, unique_by=lambda pair: "_".join(pair)))
def test_a_clip_named_by_two_columns_and_media_found_by_a_pattern(names, tmp_path_factory):
    """MMSA names a clip by two columns, video_id and clip_id, and keeps its file at Raw/VIDEO_ID/CLIP_ID.mp4."""
    folder = tmp_path_factory.mktemp("mmsa")
    rows = [{"video_id": video, "clip_id": clip, "annotation": "Positive"} for video, clip in names]
    columns = {"clip_id": ["video_id", "clip_id"], "video": "Raw/{video_id}/{clip_id}.mp4", "speaker": "{video_id}"}
    clips = clips_of(write(folder / "label.csv", rows), columns=columns)
    assert [clip.clip_id for clip in clips] == [f"{video}_{clip}" for video, clip in names]
    assert [clip.video for clip in clips] == [str(folder / "Raw" / video / f"{clip}.mp4") for video, clip in names]
    assert [clip.speaker for clip in clips] == [video for video, _ in names]


def test_a_pattern_needs_columns_that_are_there_and_cells_that_are_not_empty(tmp_path):
    path = table(tmp_path / "clips.csv", "a,b,text\n1,2,x\n,,y\n3,,z\n")
    with pytest.raises(ValueError, match=r"data\.columns\.video: .*'c', .*a, b, text"):
        clips_of(path, columns={"video": "{a}/{c}.mp4"})
    with pytest.raises(ValueError, match=r"data\.columns\.clip_id: .*'c', .*a, b, text"):
        clips_of(path, columns={"clip_id": ["a", "c"]})
    for columns in ({"video": "{a}/{b}.mp4"}, {"clip_id": ["a", "b"]}):
        with pytest.raises(ValueError, match=r"row 3, column b: "):
            clips_of(path, columns=columns)
    path = table(tmp_path / "clips.csv", "a,b,text\n1,2,x\n,,y\n")
    assert [clip.video for clip in clips_of(path, columns={"video": "{a}/{b}.mp4"})] == [
        str(tmp_path / "1/2.mp4"),
        None,
    ]


def test_a_header_with_braces_is_a_header(tmp_path):
    path = table(tmp_path / "clips.csv", "{text},text\nx,y\n")
    assert clips_of(path, columns={"text": "{text}"})[0].text == "x"


def test_columns_of_spans_are_noted_where_nothing_reads_them(tmp_path):
    path = table(tmp_path / "clips.csv", "file,start,end_sec,StartTime,endings\na.wav,0,1,0,x\n")
    _, notes = manifest.read_table(path, Data())
    assert any("start, end_sec, StartTime are not read" in note for note in notes)
    assert manifest.read_table(path, Data(columns={"label": "endings", "speaker": "start"}))[1] != notes
    assert manifest.read_table(write(tmp_path / "plain.csv", ROWS), Data())[1] == []


def splits_of(names, **settings):
    return split_names(Counter(names), Data(**settings), "split")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["Train", "Development", "TEST"], ["train", "validation", "test"]),
        (["trn", "devel", "Eval"], ["train", "validation", "test"]),
        (["training", "valid", "evaluation"], ["train", "validation", "test"]),
        (["train", "val", "test1"], ["train", "validation", "test"]),
        (["unlabeled", "dev", "Test 3"], ["unlabelled", "validation", "test"]),
    ],
)
def test_names_whose_meaning_is_clear_are_understood(names, splits):
    assert splits_of(names) == dict(zip(names, splits, strict=True))


@pytest.mark.parametrize(
    ("names", "unclear"),
    [
        (["train", "eval", "test"], ["eval"]),
        (["Train", "Development", "Test1", "Test2"], ["Test1", "Test2"]),
        (["0", "1", "2"], ["0", "1", "2"]),
        (["train", "holdout"], ["holdout"]),
    ],
)
def test_names_whose_meaning_is_not_clear_are_an_error_that_shows_how_to_say_it(names, unclear):
    with pytest.raises(ValueError, match=r"column split: .*data\.columns\.split=null") as error:
        splits_of(names)
    example = ", ".join(f"{name}: SPLIT" for name in unclear)
    assert f"data.split_map={{{example}}}" in str(error.value)
    assert all(repr(name) in str(error.value) for name in unclear)
    # As an error says it, so it works; and where folds are cut the names do not matter.
    words = f"data.split_map={{{example.replace('SPLIT', 'test')}}}"
    split_map = override(Config(), parse_overrides([words])).data.split_map
    assert [splits_of(names, split_map=split_map)[name] for name in unclear] == ["test"] * len(unclear)
    assert set(splits_of(names, folds=3)) == set(names) - set(unclear)


def test_numbers_are_names_of_splits_in_every_format(tmp_path):
    for suffix, cells in (("csv", ["0", "1", "2"]), ("parquet", [0, 1, 2]), ("parquet", [0.0, 1.0, 2.0])):
        path = write(tmp_path / f"clips.{suffix}", [{"text": "x", "split": cell} for cell in cells])
        clips = clips_of(path, split_map={0: "train", 1: "validation", 2: None})
        assert [clip.split for clip in clips] == ["train", "validation"]


def test_what_a_map_leaves_out_and_what_it_names_in_vain_is_noted(tmp_path):
    path = write(tmp_path / "clips.csv", [{"text": "x", "split": name} for name in ("train", "junk", "junk", "nan")])
    clips, notes = manifest.read_table(path, Data(split_map={"junk": None, "tset": "test"}))
    assert [clip.split for clip in clips] == ["train", None]
    assert any("'junk' (2 rows): left out" in note for note in notes)
    assert any("'tset' (0 rows)" in note for note in notes)
    assert any("'nan' in 1 rows" in note for note in notes)
    with pytest.raises(ValueError, match=r"clips\.csv: .*data\.split_map"):
        clips_of(path, split_map=dict.fromkeys(("train", "junk", "nan")))


@given(cells=st.lists(st.sampled_from(["a", "b", "c", "train", "DEV"]), min_size=1, max_size=12), data=st.data())
def test_a_map_of_all_names_gives_each_row_its_split(cells, data, tmp_path_factory):
    split_map = {name: data.draw(st.sampled_from(SPLITS)) for name in set(cells)}
    path = tmp_path_factory.mktemp("splits") / "clips.csv"
    clips = clips_of(write(path, [{"text": "x", "split": cell} for cell in cells]), split_map=split_map)
    assert [clip.split for clip in clips] == [split_map[cell] for cell in cells]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.columns", {"video": []}),
        ("data.columns", {"video": True}),
        ("data.columns", {"clip_id": ["a", None]}),
        ("data.split_map", {"0": "dev"}),
        ("data.split_map", {True: "train"}),
        ("data.split_map", {0.5: "train"}),
        ("data.label_map", {None: "happy"}),
        ("data.label_map", {"x": False}),
        ("data.label_map", {"x": " "}),
        ("data.labels", ["happy", True]),
        ("data.labels", ["happy", None]),
    ],
)
def test_values_that_have_lost_their_spelling_are_errors_of_their_key(key, value):
    with pytest.raises(ValueError, match=key):
        override(Config(), {key: value})


def test_words_that_yaml_may_take_for_something_else_stay_text_in_the_settings_of_labels_and_splits():
    words = ["data.labels=[no, yes, on, 01, 7]", "data.label_map={no: yes, 01: off, 7: null}", "data.split_map.0=train"]
    data = override(Config(), parse_overrides(words)).data
    assert data.labels == ("no", "yes", "on", "01", "7")
    assert data.label_map == {"no": "yes", "01": "off", "7": None}
    assert data.split_map == {"0": "train"}


def test_settings_of_labels_and_splits_survive_a_recipe(tmp_path):
    words = ["no", "01", "1e5", "null", "~", "true", "1.5", "2024-01-01", "a: b", "7", "{x}"]
    changes = {
        "data.labels": words,
        "data.label_map": dict(zip(words, [None, *words[1:]], strict=True)),
        "data.split_map": dict.fromkeys(words, "train"),
        "data.columns": {"clip_id": words, "label": None, "text": "1e5"},
    }
    config = override(Config(), changes)
    for text in (dump(config), recipe(config)):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        assert load(str(tmp_path / "recipe.yaml")) == config


def test_one_column_of_any_name_may_hold_videos_and_sounds(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("Datei,video\na.mp4,no\nb.wav,no\n")
    clips, _ = manifest.read_table(path, Data(columns={"file": "Datei"}))
    assert [(clip.video, clip.audio) for clip in clips] == [(f"{tmp_path}/a.mp4", None), (None, f"{tmp_path}/b.wav")]
    unread, _ = manifest.read_table(path.with_name("clips.csv"), Data(columns={"file": None, "audio": "Datei"}))
    assert [clip.audio for clip in unread] == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.wav"]
    with pytest.raises(ValueError, match="file and video"):
        Data(columns={"file": "Datei", "video": "video"})
