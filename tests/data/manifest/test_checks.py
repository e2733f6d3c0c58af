"""What clips of every importer go through: speakers who are nobody, classes, shared files and ids."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables_on_disk import table, write

from emo_ray.config.data_settings import Data
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest.checks import check_files, check_ids, cleaned

NOBODY = ("nan", "NaN", "None", "NA", "N/A", "n/a", "Unknown", "unknown", "<NA>", "null", "?", "-", " nan ")


def read(path, **settings):
    return read_corpus(Data(manifest=str(path), **settings))


@pytest.mark.parametrize("word", NOBODY)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_word_for_nobody_is_no_speaker_and_is_counted(tmp_path, word, suffix):
    rows = [{"clip_id": f"c{i}", "text": "x", "speaker": word if i % 2 else f"s{i}"} for i in range(6)]
    clips, notes = read(write(tmp_path / f"clips.{suffix}", rows))
    assert [clip.speaker for clip in clips] == ["s0", None, "s2", None, "s4", None]
    assert any(f"{word.strip()!r} in 3 clips" in note and note.startswith("speaker") for note in notes)


def test_nobody_beside_a_name_of_something_else_is_nobody(tmp_path):
    rows = [{"text": "x", "show": "Friends", "who": who} for who in ("Ann", "Unknown", "Unknown")]
    path = write(tmp_path / "clips.csv", rows)
    for columns in ({"speaker": ["show", "who"]}, {"speaker": "{show}/{who}"}):
        clips, notes = read(path, columns=columns)
        assert [clip.speaker is None for clip in clips] == [False, True, True]
        assert any("'Unknown' in 2 clips" in note for note in notes)


def test_names_that_only_begin_so_are_people(tmp_path):
    names = ["Nan A", "Nonesuch", "Nana", "unknown soldier", "0", "-1", "Unk7"]
    clips, notes = read(write(tmp_path / "clips.csv", [{"text": "x", "speaker": name} for name in names]))
    assert [clip.speaker for clip in clips] == names
    assert notes == []


def test_speakers_of_a_known_corpus_who_are_nobody_are_none_too(tmp_path):
    header = "Utterance,Emotion,Speaker,Dialogue_ID,Utterance_ID\n"
    table(tmp_path / "train_sent_emo.csv", header + "Hi,joy,Unknown,0,0\nOh,sad,Ann,0,1\n")
    clips, notes = read(tmp_path)
    assert [clip.speaker for clip in clips] == [None, "Ann"]
    assert any("'Unknown' in 1 clips" in note for note in notes)


def test_texts_and_languages_that_say_nothing_are_none_and_what_people_say_stays(tmp_path):
    rows = [("nan", "NA"), ("Nan", "de"), ("None", "zh"), ("na", "Unknown"), ("<NA>", "en")]
    clips, _ = read(write(tmp_path / "clips.csv", [{"clip_id": t, "text": t, "language": lang} for t, lang in rows]))
    assert [clip.text for clip in clips] == [None, "Nan", "None", "na", None]
    assert [clip.language for clip in clips] == [None, "de", "zh", None, "en"]


def test_media_that_are_nan_are_no_files(tmp_path):
    rows = [{"clip_id": "a", "video": "nan", "audio": "a.wav"}, {"clip_id": "b", "video": "b.mp4", "audio": "NaN"}]
    clips, notes = read(write(tmp_path / "clips.csv", rows))
    assert [(clip.video is None, clip.audio is None) for clip in clips] == [(True, False), (False, True)]
    assert len(notes) == 2


SEGMENTS = "file,start,end,label\n" + "".join(f"long{i % 2}.wav,{i},{i + 1},happy\n" for i in range(6))


def test_rows_that_share_a_file_are_named_before_anybody_is_told_to_give_ids(tmp_path):
    with pytest.raises(ValueError, match=r"clips\.csv: .*long0\.wav in 3 rows, and 1 more ") as error:
        read(table(tmp_path / "clips.csv", SEGMENTS))
    assert "clip_id" not in str(error.value)
    numbered = "".join(f"{'clip_id' if i == 0 else i},{line}\n" for i, line in enumerate(SEGMENTS.split()))
    with pytest.raises(ValueError, match=r"long0\.wav in 3 rows"):
        read(table(tmp_path / "clips.csv", numbered))


def test_rows_share_a_file_however_it_is_spelled(tmp_path):
    for first, second in (("a.wav", "./a.wav"), ("a.wav", "x/../a.wav"), ("s3://b/a.wav", "s3://b/a.wav")):
        with pytest.raises(ValueError, match=r"a\.wav in 2 rows"):
            read(table(tmp_path / "clips.csv", f"clip_id,audio\n1,{first}\n2,{second}\n"), schemes=("s3",))


@given(
    files=st.lists(
        st.tuples(st.none() | st.sampled_from("abcdef"), st.none() | st.sampled_from("abcdef")), min_size=1, max_size=6
    )
)
def test_a_file_of_one_row_is_fine_and_of_several_an_error(files):
    clips = [Clip(str(i), video=video, audio=audio) for i, (video, audio) in enumerate(files)]
    counts = Counter(name for row in files for name in set(row) - {None})
    shared = {name: count for name, count in counts.items() if count > 1}
    if not shared:
        check_files(clips, "here")
    else:
        with pytest.raises(ValueError, match=r"^here: found (\w) in (\d) rows") as error:
            check_files(clips, "here")
        words = str(error.value).split()
        assert shared[words[2]] == int(words[4])


def test_rows_may_share_files_that_features_from_elsewhere_make_needless(tmp_path):
    named = "".join(f"{'clip_id' if i == 0 else i},{line}\n" for i, line in enumerate(SEGMENTS.split()))
    clips, _ = read_corpus(Data(manifest=str(table(tmp_path / "clips.csv", named))), bare=True)
    assert len(clips) == 6
    with pytest.raises(ValueError, match=r"'long0' in 3 rows|'.*/long0' in 3 rows"):
        read_corpus(Data(manifest=str(table(tmp_path / "clips.csv", SEGMENTS))), bare=True)


def test_ids_that_are_doubled_or_missing_are_errors():
    clips = [Clip("a"), Clip("b"), Clip("a"), Clip(""), Clip("a")]
    with pytest.raises(ValueError, match=r"^here: column clip_id: .*'a' in 3 rows, .*row 4, column clip_id: "):
        check_ids(clips, "here")
    check_ids(clips[:2], "here")


def test_clips_of_dropped_classes_are_left_out_and_a_map_that_drops_all_is_an_error():
    clips = [Clip(str(i), label=label) for i, label in enumerate(["joy", "xxx", None, "sad", "xxx"])]
    kept, notes = cleaned(clips, Data(label_map={"xxx": None, "joy": "happy"}), "here")
    assert [(clip.clip_id, clip.label) for clip in kept] == [("0", "happy"), ("2", None), ("3", "sad")]
    assert any("'xxx' in 2 clips" in note for note in notes)
    with pytest.raises(ValueError, match=r"here: data\.label_map"):
        cleaned(clips[1:2], Data(label_map={"xxx": None}), "here")


def test_labels_of_a_known_corpus_are_mapped_and_joined_as_those_of_a_table(tmp_path):
    for folder, count in (("Angry", 2), ("angry", 1), ("noise", 1)):
        for i in range(count):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{i}.wav").touch()
    with pytest.raises(ValueError, match=r"'Angry' \(2 clips\) and 'angry' \(1 clips\)"):
        read(tmp_path, corpus="class_folders")
    clips, _ = read(tmp_path, corpus="class_folders", merge_labels=True, label_map={"noise": None})
    assert [clip.label for clip in clips] == ["Angry"] * 3
