"""Importers: each layout gives the clips that its files and tables describe, and errors name the file at fault."""

import csv
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from emo_ray.config.data_settings import Data
from emo_ray.data.corpora.reader import FOLDER_IMPORTERS, read_corpus

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(path: Path, *rows: list, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream).writerows(rows)


def read(path: Path, corpus: str = "auto", **changes) -> list:
    return read_corpus(Data(manifest=str(path), corpus=corpus, **changes))[0]


def ids(clips: list) -> list[str]:
    return [clip.clip_id for clip in clips]


def tiny_ravdess(root: Path) -> Path:
    return touch(
        root,
        "Actor_01/01-01-03-01-02-01-01.mp4",
        "Actor_01/02-01-03-01-02-01-01.mp4",
        "Actor_01/03-01-03-01-02-01-01.wav",
        "Actor_02/02-01-05-02-01-02-02.mp4",
        "speech/Actor_02/03-01-05-02-01-02-02.WAV",
        "speech/Actor_12/03-02-01-01-01-01-12.flac",
        "Actor_01/._01-01-03-01-02-01-01.mp4",
    )


def tiny_mer(root: Path) -> Path:
    table(root / "label-disdim.csv", ["name", "discrete", "valence"], ["b", "happy", 1], ["gone", "sad", -2])
    table(root / "label-transcription.csv", ["name", "english", "chinese"], ["a", "Hi", "你好"], ["b", "No", "不"])
    return touch(
        root,
        "video-labeled/b.mp4",
        "video-labeled/._b.mp4",
        "video-unlabeled/a.avi",
        "audio-labeled_16k/b.wav",
        "openface/b.mp4",
    )


MELD_HEADER = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"]


def tiny_meld(root: Path) -> Path:
    table(
        root / "train" / "train_sent_emo.csv",
        MELD_HEADER,
        [1, "he’s lost it, all of it", "Phoebe", "sadness", "negative", 0, 0],
        [2, "What?", "Mrs. Green", "surprise", "negative", 0, 1],
    )
    table(root / "dev_sent_emo.csv", MELD_HEADER, [1, "Hey.", "Joey", "neutral", "neutral", 0, 0])
    table(root / "test_sent_emo.csv", MELD_HEADER, [1, "No!", "Ross", "anger", "negative", 0, 0])
    return touch(
        root,
        "train/train_splits/dia0_utt0.mp4",
        "dev/dev_splits_complete/dia0_utt0.mp4",
        "test/output_repeated_splits_test/dia0_utt0.mp4",
        "test/output_repeated_splits_test/._dia0_utt0.mp4",
        "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4",
        "._train_sent_emo.csv",
    )


def tiny_iemocap(root: Path) -> Path:
    dialogs, stem = root / "Session2" / "dialog", "Ses02F_impro01"
    for folder in ("EmoEvaluation/Attribute", "transcriptions"):
        (dialogs / folder).mkdir(parents=True)
    scores = "[2.5000, 2.5000, 2.5000]"
    (dialogs / "EmoEvaluation" / f"{stem}.txt").write_text(
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        f"[10.2000 - 11.0000]\t{stem}_F001\texc\t{scores}\nC-E2:\tHappiness;\t()\nC-E4:\tHappiness; Excited;\t(x)\n"
        "C-F1:\tAnger;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n"
        f"[9.5000 - 10.1000]\t{stem}_M000\txxx\t{scores}\n[6.2901 - 8.2357]\t{stem}_F000\tneu\t{scores}\n"
    )
    (dialogs / "EmoEvaluation" / "Attribute" / f"{stem}_e1_atr.txt").write_text("not read")
    (dialogs / "transcriptions" / f"{stem}.txt").write_text(
        f"{stem}_F000 [006.2901-008.2357]: Excuse me: hello.\n{stem}_FXX0 [8.0-8.1]: [LAUGHTER]\nM: no turn\n"
    )
    return touch(
        root,
        f"Session2/sentences/wav/{stem}/{stem}_F000.wav",
        f"Session2/sentences/wav/{stem}/{stem}_M000.wav",
        f"Session2/dialog/wav/{stem}.wav",
        f"Session2/dialog/avi/DivX/{stem}.avi",
    )


def tiny_classes(root: Path) -> Path:
    return touch(root, "angry/a.mp4", "angry/a.wav", "angry/x/a.flac", "sad/a.mp4", "sad/._a.mp4", "sad/a.jpg")


CORPORA = {
    "ravdess": tiny_ravdess,
    "mer2024": tiny_mer,
    "meld": tiny_meld,
    "iemocap": tiny_iemocap,
    "class_folders": tiny_classes,
    "folder": tiny_classes,
}


class Entries(list):
    """A list that is a context manager, like the iterator that os.scandir returns."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class TestEveryCorpus:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("corpus", CORPORA)
    def test_the_file_systems_order_does_not_matter(self, corpus, seed, tmp_path, monkeypatch):
        def shuffled(folder):
            with scandir(folder) as entries:
                in_order = sorted(entries, key=lambda entry: entry.name)
            shuffles.append(Entries(rng.sample(in_order, len(in_order))))
            return shuffles[-1]

        root = CORPORA[corpus](tmp_path)
        expected = read(root, corpus)
        scandir = os.scandir
        rng = random.Random(seed)
        shuffles = []
        monkeypatch.setattr(os, "scandir", shuffled)
        assert read(root, corpus) == expected
        assert shuffles

    @pytest.mark.parametrize("corpus", CORPORA)
    def test_paths_are_absolute_and_hidden_files_never_show(self, corpus, tmp_path, monkeypatch):
        root = CORPORA[corpus](tmp_path / "corpus")
        monkeypatch.chdir(tmp_path)
        clips = read(Path("corpus"), corpus)
        assert clips == read(root, corpus)
        for path in (path for clip in clips for path in (clip.video, clip.audio) if path):
            assert Path(path).is_absolute()
            assert not Path(path).name.startswith("._")

    @pytest.mark.parametrize("corpus", [name for name in CORPORA if name != "class_folders"])
    def test_auto_recognises_it(self, corpus, tmp_path):
        root = CORPORA[corpus](tmp_path)
        assert read(root) == read(root, corpus)

    @pytest.mark.parametrize("corpus", ["auto", "ravdess", "folder", "class_folders"])
    def test_an_empty_folder_is_an_error(self, corpus, tmp_path):
        touch(tmp_path, "notes.txt", "._a.mp4", ".hidden/a.mp4")
        with pytest.raises(ValueError, match=r"no clips .*\.mp4"):
            read(tmp_path, corpus)


class TestReadCorpus:
    def test_a_file_is_a_table_with_root_and_columns(self, tmp_path):
        table(tmp_path / "t.csv", ["id", "clip", "feeling"], ["a", "a.mp4", "sad"])
        columns = {"video": "clip", "label": "feeling"}
        (clip,) = read(tmp_path / "t.csv", columns=columns, root=str(tmp_path / "media"))
        assert (clip.clip_id, clip.video, clip.label) == ("a", str(tmp_path / "media" / "a.mp4"), "sad")
        assert read(tmp_path / "t.csv", "table", columns=columns)[0].video == str(tmp_path / "a.mp4")

    def test_repeated_ids_are_an_error(self, tmp_path):
        table(tmp_path / "t.csv", ["clip_id", "text"], ["a", "one"], ["a", "two"])
        with pytest.raises(ValueError, match=r"t\.csv: .*'a' in 2 rows"):
            read(tmp_path / "t.csv")

    def test_without_a_corpus_on_disk_it_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"data\.manifest=None, data\.corpus=auto"):
            read_corpus(Data())
        with pytest.raises(ValueError, match=r"data\.corpus=synthetic"):
            read(tmp_path, "synthetic")

    @pytest.mark.parametrize("corpus", ["auto", "table", "meld"])
    def test_a_missing_path_is_named(self, corpus, tmp_path):
        with pytest.raises(ValueError, match=r"gone: .*data\.manifest"):
            read(tmp_path / "gone", corpus)

    def test_a_folder_in_place_of_a_file_is_an_error_and_the_other_way_round(self, tmp_path):
        touch(tmp_path, "t.csv")
        with pytest.raises(ValueError, match=r"a folder, expected a file .*data\.corpus=table"):
            read(tmp_path, "table")
        with pytest.raises(ValueError, match=r"t\.csv: found a file, .*data\.corpus=meld"):
            read(tmp_path / "t.csv", "meld")

    @pytest.mark.parametrize(
        "setting",
        [{"root": "/media"}, {"columns": {"label": "feeling"}}, {"encoding": "cp932"}, {"split_map": {"1": "train"}}],
    )
    def test_settings_of_tables_are_not_silently_dropped(self, setting, tmp_path):
        with pytest.raises(ValueError, match=r"data\.(root|columns|encoding|split_map)=.* with a folder"):
            read(touch(tmp_path, "a.mp4"), **setting)

    def test_links_are_followed_and_loops_are_not(self, tmp_path):
        touch(tmp_path, "disk/a.mp4", "corpus/b.mp4")
        (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "disk")
        (tmp_path / "disk" / "back").symlink_to(tmp_path / "corpus")
        assert ids(read(tmp_path / "corpus", outside_root=True)) == ["b", "linked/a"]


class TestRavdess:
    def test_one_clip_per_take(self, tmp_path):
        root = tiny_ravdess(tmp_path)
        happy, angry, song = read(root)
        assert ids([happy, angry, song]) == ["01-03-01-02-01-01", "01-05-02-01-02-02", "02-01-01-01-01-12"]
        assert happy.video == str(root / "Actor_01/01-01-03-01-02-01-01.mp4")
        assert happy.audio == str(root / "Actor_01/03-01-03-01-02-01-01.wav")
        assert (happy.label, happy.text) == ("happy", "Dogs are sitting by the door")
        assert (happy.speaker, happy.language, happy.split) == ("01", "en", None)
        assert angry.video == str(root / "Actor_02/02-01-05-02-01-02-02.mp4")
        assert angry.audio == str(root / "speech/Actor_02/03-01-05-02-01-02-02.WAV")
        assert (song.video, song.label, song.speaker) == (None, "neutral", "12")

    def test_copies_in_other_folders_change_nothing(self, tmp_path):
        once = read(tiny_ravdess(tmp_path))
        touch(tmp_path, "zcopy/Actor_01/01-01-03-01-02-01-01.mp4", "zcopy/03-02-01-01-01-01-12.flac")
        assert read(tmp_path) == once

    @pytest.mark.parametrize("name", ["holiday.mp4", "03-01-09-01-01-01-01.wav", "04-01-01-01-01-01-01.mp4"])
    def test_other_media_are_named(self, name, tmp_path):
        root = touch(tiny_ravdess(tmp_path), f"odd/{name}")
        with pytest.raises(ValueError, match=rf"odd/{name}, .*RAVDESS"):
            read(root, "ravdess")
        assert read(root) == read(root, "folder")

    def test_the_error_shows_the_first_few(self, tmp_path):
        touch(tmp_path, *(f"{i}.mp4" for i in range(8)))
        with pytest.raises(ValueError, match=r"0\.mp4, 1\.mp4, 2\.mp4, 3\.mp4, 4\.mp4 and 3 more"):
            read(tmp_path, "ravdess")

    def test_against_the_manifest_of_real_takes(self):
        root = SHARED / "ravdess_speech"
        if not (root / "manifest.csv").is_file():
            pytest.skip(f"no real RAVDESS takes at {root}")
        with (root / "manifest.csv").open(newline="", encoding="utf-8") as stream:
            rows = {str(root / row["file"]): row for row in csv.DictReader(stream)}
        clips = read(root)
        assert len(clips) == len(rows) == 720
        documented = {"fear": "fearful", "surprise": "surprised"}  # the manifest's short forms -> RAVDESS's own words
        for clip in clips:
            row = rows[clip.audio]
            label = documented.get(row["emotion"], row["emotion"])
            assert (clip.video, clip.label, clip.text) == (None, label, row["text"])
            assert int(clip.speaker) == int(row["actor"])


class TestMer2024:
    def test_clips_are_the_union_of_labels_and_videos(self, tmp_path):
        root = tiny_mer(tmp_path)
        a, b, gone = read(root)
        assert (a.clip_id, a.label, a.split, a.text) == ("a", None, "unlabelled", "你好")
        assert (a.video, a.audio) == (str(root / "video-unlabeled/a.avi"), None)
        assert (b.clip_id, b.label, b.split, b.text, b.language) == ("b", "happy", None, "不", "zh")
        assert (b.video, b.audio) == (str(root / "video-labeled/b.mp4"), str(root / "audio-labeled_16k/b.wav"))
        assert (gone.clip_id, gone.label, gone.text) == ("gone", "sad", None)
        assert gone.video == str(root / "video-labeled/gone.mp4")

    def test_one_table_may_hold_labels_and_transcripts(self, tmp_path):
        table(tmp_path / "all.csv", ["name", "discrete", "sentence"], ["a", "sad", "唉"], ["b", "", ""])
        a, b = read(touch(tmp_path, "clips/a.mp4"))
        assert (a.label, a.text, a.video) == ("sad", "唉", str(tmp_path / "clips/a.mp4"))
        assert (b.label, b.text, b.split) == (None, None, "unlabelled")

    def test_videos_count_only_in_video_folders_where_there_is_one(self, tmp_path):
        expected = read(tiny_mer(tmp_path))
        assert read(touch(tmp_path, "video_of_the_team.mp4", "faces/c.mp4"), "mer2024") == expected

    @pytest.mark.parametrize("folder", ["clips/", ""])
    def test_videos_count_anywhere_where_there_is_none(self, folder, tmp_path):
        table(tmp_path / "label.csv", ["name", "discrete"], ["a", "sad"], ["b", "angry"])
        clips = read(touch(tmp_path, f"{folder}a.mp4"))
        assert [clip.video for clip in clips] == [str(tmp_path / f"{folder}{name}.mp4") for name in "ab"]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
    def test_encodings_of_transcripts(self, encoding, tmp_path):
        table(tmp_path / "label.csv", ["name", "discrete"], ["a", "worried"])
        table(tmp_path / "text.csv", ["name", "chinese"], ["a", "你怎么了？𠮷"], encoding=encoding)
        assert read(tmp_path)[0].text == "你怎么了？𠮷"

    def test_labels_are_utf_8(self, tmp_path):
        table(tmp_path / "label.csv", ["name", "discrete"], ["a", "担心"], encoding="gb18030")
        with pytest.raises(ValueError, match=r"label\.csv: .*utf-8-sig"):
            read(tmp_path)

    def test_disagreeing_tables_are_an_error(self, tmp_path):
        table(tiny_mer(tmp_path) / "other.csv", ["name", "discrete"], ["b", "angry"], ["gone", "sad"])
        with pytest.raises(ValueError, match=r"other\.csv: .*'happy' and 'angry' for 'b'"):
            read(tmp_path)

    def test_a_name_in_two_video_folders_is_an_error(self, tmp_path):
        touch(tiny_mer(tmp_path), "video-unlabeled-with-test2noise/a.avi")
        with pytest.raises(ValueError, match=r"'video-unlabeled-with-test2noise/a\.avi' and .* for 'a'"):
            read(tmp_path)

    def test_cells_that_do_not_fit_are_named(self, tmp_path):
        (tmp_path / "l.csv").write_text("name,discrete\na,sad\nb,sad,so,what\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"l\.csv: row 2: .*expected 2"):
            read(tmp_path)
        (tmp_path / "l.csv").write_text('name,discrete\na,"sad\nb,happy\n', encoding="utf-8")
        with pytest.raises(ValueError, match=r"l\.csv: .*unexpected end of data"):
            read(tmp_path)

    def test_no_label_table_says_what_there_is(self, tmp_path):
        with pytest.raises(ValueError, match=r"no CSV, .*name and discrete"):
            read(tmp_path, "mer2024")
        table(tmp_path / "openset.csv", ["name", "openset"], ["a", "[sad]"])
        with pytest.raises(ValueError, match=r"openset\.csv \(name, openset\)"):
            read(tmp_path, "mer2024")


class TestIemocap:
    def test_turns_become_clips_in_their_dialogues(self, tmp_path):
        root = tiny_iemocap(tmp_path)
        clips = {clip.clip_id.rpartition("_")[2]: clip for clip in read(root)}
        assert clips.keys() == {"F000", "M000", "F001"}
        folder = root / "Session2/sentences/wav/Ses02F_impro01"
        for name, clip in clips.items():  # F001 has no file: the path that it should have had
            assert (clip.audio, clip.video) == (str(folder / f"Ses02F_impro01_{name}.wav"), None)
        assert [clips[name].label for name in ("F000", "M000", "F001")] == ["neu", None, "exc"]
        assert [clips[name].turn for name in ("F000", "M000", "F001")] == [6.2901, 9.5, 10.2]
        assert {clip.dialogue for clip in clips.values()} == {"Ses02F_impro01"}
        assert [clips[name].speaker for name in ("F000", "M000", "F001")] == ["Ses02_F", "Ses02_M", "Ses02_F"]
        assert (clips["F000"].text, clips["M000"].text) == ("Excuse me: hello.", None)
        assert (clips["F000"].votes, clips["F001"].votes) == (None, (("exc", 0.5), ("hap", 1.5)))

    def test_labels_are_the_user_s_to_merge(self, tmp_path):
        clips = read(tiny_iemocap(tmp_path), label_map={"exc": "hap"})
        assert {clip.label for clip in clips} == {"neu", "hap", None}

    def test_without_labels_it_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"EmoEvaluation/Ses01F_impro01\.txt"):
            read(touch(tmp_path, "a.wav"), "iemocap")


class TestMeld:
    def test_rows_become_clips_in_their_splits(self, tmp_path):
        root = tiny_meld(tmp_path)
        clips = read(root)
        assert ids(clips) == ["train_dia0_utt0", "train_dia0_utt1", "dev_dia0_utt0", "test_dia0_utt0"]
        assert [clip.split for clip in clips] == ["train", "train", "validation", "test"]
        assert [clip.video for clip in clips] == [
            str(root / "train/train_splits/dia0_utt0.mp4"),
            str(root / "train/train_splits/dia0_utt1.mp4"),  # not there: the path that it should have had
            str(root / "dev/dev_splits_complete/dia0_utt0.mp4"),
            str(root / "test/output_repeated_splits_test/dia0_utt0.mp4"),
        ]
        first, second = clips[:2]
        assert (first.text, first.label, first.audio) == ("he’s lost it, all of it", "sadness", None)
        assert (second.speaker, second.language) == ("Mrs. Green", "en")
        places = [("train_0", 0), ("train_0", 1), ("dev_0", 0), ("test_0", 0)]  # MELD counts anew in each table
        assert [(clip.dialogue, clip.turn) for clip in clips] == places

    def test_the_nearest_folder_names_the_split(self, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", MELD_HEADER, [1, "Hey.", "Joey", "neutral", "neutral", 0, 0])
        touch(tmp_path, "a_test_copy/train/dia0_utt0.mp4", "a_test_copy/Dev/dia0_utt0.mp4", "z_dev/train/dia0_utt0.mp4")
        assert read(tmp_path)[0].video == str(tmp_path / "a_test_copy/Dev/dia0_utt0.mp4")

    def test_tables_without_any_media(self, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", MELD_HEADER, [1, "Hey.", "Joey", "neutral", "neutral", 7, 3])
        assert read(tmp_path)[0].video == str(tmp_path / "dev_splits_complete/dia7_utt3.mp4")

    @pytest.mark.parametrize("name", ["copy/train_sent_emo.csv", "old_sent_emo.csv"])
    def test_doubled_and_unknown_tables_are_named(self, name, tmp_path):
        with pytest.raises(ValueError, match=rf"found .*{name}.*expected .*train_sent_emo\.csv"):
            read(touch(tiny_meld(tmp_path), name))

    def test_no_table_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"no \*_sent_emo\.csv, .*train_sent_emo\.csv"):
            read(tmp_path, "meld")

    def test_missing_columns_are_named(self, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", ["Utterance", "Emotion"], ["Hey.", "joy"])
        with pytest.raises(ValueError, match="Utterance, Emotion, expected Speaker, Dialogue_ID, Utt"):
            read(tmp_path)


class TestFolder:
    def test_files_of_one_stem_are_one_clip(self, tmp_path):
        touch(tmp_path, "x/a.mp4", "x/a.wav", "a.FLAC", "x/a.v2.mov", "README.txt", "table.csv")
        (tmp_path / "x/a.txt").write_text("\ufeff Grüß dich \n", encoding="utf-8")
        a, xa, v2 = read(tmp_path)
        assert ids([a, xa, v2]) == ["a", "x/a", "x/a.v2"]
        assert (a.video, a.audio, a.text) == (None, str(tmp_path / "a.FLAC"), None)
        assert (xa.video, xa.audio) == (str(tmp_path / "x/a.mp4"), str(tmp_path / "x/a.wav"))
        assert xa.text == "Grüß dich"
        assert (v2.video, v2.text, v2.label, v2.split) == (str(tmp_path / "x/a.v2.mov"), None, None, None)

    def test_every_media_file_is_in_exactly_one_clip(self, tmp_path):
        clips = read(tiny_classes(tmp_path))
        paths = Counter(path for clip in clips for path in (clip.video, clip.audio) if path)
        media = [str(p) for p in tmp_path.rglob("*.*") if p.suffix != ".jpg" and not p.name.startswith("._")]
        assert paths == Counter(media)

    @pytest.mark.parametrize(("first", "second"), [("a.mov", "a.mp4"), ("a.flac", "a.wav")])
    def test_two_videos_or_sounds_of_a_clip_are_an_error(self, first, second, tmp_path):
        with pytest.raises(ValueError, match=rf"a: .*{first}' and '.*{second}' for '(video|audio)'"):
            read(touch(tmp_path, first, second))

    def test_transcripts_are_utf_8(self, tmp_path):
        touch(tmp_path, "a.mp4")
        (tmp_path / "a.txt").write_bytes("Grüß".encode("latin-1"))
        with pytest.raises(ValueError, match=r"a\.txt: .*utf-8-sig"):
            read(tmp_path)


class TestClassFolders:
    def test_the_first_folder_is_the_label(self, tmp_path):
        clips = read(tiny_classes(tmp_path), "class_folders")
        assert [(clip.clip_id, clip.label) for clip in clips] == [
            ("angry/a", "angry"),
            ("angry/x/a", "angry"),
            ("sad/a", "sad"),
        ]

    def test_media_outside_of_a_class_are_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"loose\.wav .*LABEL/clip\.mp4"):
            read(touch(tiny_classes(tmp_path), "loose.wav"), "class_folders")


def test_every_corpus_of_the_config_has_an_importer():
    names = set(Data.model_fields["corpus"].annotation.__args__)
    assert set(FOLDER_IMPORTERS) == names - {"auto", "synthetic", "table"}


def test_plain_media_in_folders_that_may_be_classes_are_told_how_to_say_so(tmp_path):
    names = [f"{label}/{take}.mp4" for label in ("happy", "sad") for take in range(2)]
    _, notes = read_corpus(Data(manifest=str(touch(tmp_path, *names))))
    assert any("2 folders (happy, sad)" in note and "data.corpus=class_folders" in note for note in notes)
    touch(tmp_path, "loose.mp4")
    _, notes = read_corpus(Data(manifest=str(tmp_path)))
    assert not any("class_folders" in note for note in notes)
