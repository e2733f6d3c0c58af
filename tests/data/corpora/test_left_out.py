"""What an importer does not use is named in a note, and no odd name or link ends a job or leads out of the corpus."""

import csv
import os
from pathlib import Path

import pytest

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.corpora.reader import read_corpus

TAKES = [f"03-01-05-01-02-01-{actor:02}.wav" for actor in range(1, 4)]
MELD_HEADER = ["Utterance", "Emotion", "Speaker", "Dialogue_ID", "Utterance_ID"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(path: Path, *rows: list) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def read(path: Path, corpus: str = "auto", **settings) -> tuple[dict, str]:
    """The clips by clip_id, and all notes as one text."""
    clips, notes = read_corpus(Data(manifest=str(path), corpus=corpus, **settings))
    return {clip.clip_id: clip for clip in clips}, "\n".join(notes)


class TestRecognition:
    @pytest.mark.parametrize("names", [TAKES, ["a.mp4", "b.wav"]])
    def test_a_note_says_what_the_folder_is_taken_for(self, names, tmp_path):
        corpus = "ravdess" if names == TAKES else "folder"
        assert corpus in read(touch(tmp_path, *names))[1].splitlines()[0]
        assert read(tmp_path, corpus)[1] == ""

    def test_own_clips_beside_a_take_are_a_plain_folder(self, tmp_path):
        clips, notes = read(touch(tmp_path, *(f"own{i:02}.mp4" for i in range(20)), TAKES[0]))
        assert len(clips) == 21
        assert {clip.label for clip in clips.values()} == {None}
        assert "not for ravdess: 20 of 21 media files do not fit it (own00.mp4, " in notes

    def test_a_take_without_a_known_emotion_does_not_fit(self, tmp_path):
        _, notes = read(touch(tmp_path, *TAKES, "03-01-09-01-02-01-01.wav"))
        assert "not for ravdess: 1 of 4 media files do not fit it (03-01-09" in notes

    def test_meld_needs_more_than_its_tables(self, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", MELD_HEADER, ["Hey.", "joy", "Joey", 0, 0])
        touch(tmp_path, "dev/dia0_utt0.mp4", "dev/final_videos_testdia0_utt0.mp4")
        clips, notes = read(tmp_path)
        assert list(clips) == ["dev_dia0_utt0"]
        assert "taken for meld" in notes
        assert "left out, 1 in all: media files that no clip uses (.mp4: 1 such as dev/final_videos_test" in notes
        clips, notes = read(touch(tmp_path, "holiday.mov"))
        assert "holiday" in clips
        assert "not for meld: 1 of 3 media files do not fit it (holiday.mov)" in notes

    def test_mer2024_needs_media_that_its_tables_or_folders_name(self, tmp_path):
        table(tmp_path / "label.csv", ["name", "discrete"], ["a", "sad"])
        touch(tmp_path, "video/a.mp4", "video/b.mp4", "faces/a.mp4")
        clips, notes = read(tmp_path)
        assert list(clips) == ["a", "b"]
        assert "taken for mer2024" in notes
        assert "left out, 1 in all: media files that no clip uses (.mp4: 1 such as faces/a.mp4)" in notes
        clips, notes = read(touch(tmp_path, "faces/c.mp4"))
        assert "faces/c" in clips
        assert "not for mer2024: 1 of 4 media files do not fit it (faces/c.mp4)" in notes

    def test_a_label_table_beside_sounds_alone(self, tmp_path):
        table(tmp_path / "label.csv", ["name", "discrete"], ["a", "sad"], ["gone", "happy"])
        clips, notes = read(touch(tmp_path, "a.wav"))
        assert (clips["a"].video, clips["a"].audio, clips["a"].label) == (None, str(tmp_path / "a.wav"), "sad")
        assert clips["gone"].video is not None
        assert "left out" not in notes

    @pytest.mark.parametrize("name", ["dev/dia0_utt0.MOV", "dev/dia0_utt0.flac"])
    def test_meld_in_other_formats(self, name, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", MELD_HEADER, ["Hey.", "joy", "Joey", 0, 0])
        (clip,) = read(touch(tmp_path, name))[0].values()
        assert str(tmp_path / name) == (clip.video or clip.audio)

    def test_of_several_files_of_an_utterance_the_mp4_is_taken(self, tmp_path):
        table(tmp_path / "dev_sent_emo.csv", MELD_HEADER, ["Hey.", "joy", "Joey", 0, 0])
        (clip,) = read(touch(tmp_path, "dev/dia0_utt0.avi", "dev/dia0_utt0.mp4", "dev/dia0_utt0.aac"))[0].values()
        assert (clip.video, clip.audio) == (str(tmp_path / "dev/dia0_utt0.mp4"), None)


class TestLeftOut:
    def test_media_of_all_recorders_are_taken_and_the_rest_is_named(self, tmp_path):
        words = "MTS 3gp amr aiff au sph ogv w64 ts m2ts asf mxf caf wv vob WMA"
        suffixes = words.split()
        touch(tmp_path, *(f"{suffix.lower()}.{suffix}" for suffix in suffixes))
        touch(tmp_path, "face1.jpg", "x/face2.JPG", "anim.gif", "README", "app.d.txt")
        clips, notes = read(tmp_path)
        assert sorted(clips) == sorted(suffix.lower() for suffix in suffixes)
        assert "left out, 5 in all: files not taken for media" in notes
        for group in (".jpg: 2 such as face1.jpg", ".gif: 1 such as anim.gif", "no suffix: 1 such as README"):
            assert group in notes

    def test_many_suffixes_are_counted(self, tmp_path):
        _, notes = read(touch(tmp_path, "a.wav", *(f"a.x{i:02}" for i in range(15))))
        assert notes.endswith(".x11: 1 such as a.x11 and 3 more suffixes): name those that are media in a manifest")

    def test_transcripts_and_tables_that_were_read_are_not_left_out(self, tmp_path):
        assert "left out" not in read(touch(tmp_path, "a.wav", "a.TXT"))[1]

    def test_two_transcripts_of_a_clip_are_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"'a\.TXT' and 'a\.txt' for 'a'"):
            read(touch(tmp_path, "a.wav", "a.TXT", "a.txt"))

    def test_notes_do_not_depend_on_where_the_corpus_lies(self, tmp_path):
        notes = [read(touch(tmp_path / name, "a.wav", "a.jpg", TAKES[0]))[1] for name in ("here", "there")]
        assert notes[0] == notes[1]

    def test_a_folder_without_any_clip_says_what_lies_there(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        with pytest.raises(ValueError, match=r"no clips .*\.jpg: 1 such as b\.jpg.* pipes.* a\.wav"):
            read(touch(tmp_path, "b.jpg"))


class TestOddNames:
    @pytest.mark.parametrize("name", [b"caf\xe9.wav", "你好.mp4".encode("gbk"), b"\xff/a.wav"])
    def test_names_that_are_not_utf_8_are_left_out_and_the_others_can_be_stored(self, name, tmp_path):
        path = os.path.join(os.fsencode(tmp_path), name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "wb").close()
        except (OSError, UnicodeError):
            pytest.skip("the file system takes UTF-8 names alone")
        clips, notes = read(touch(tmp_path, "é.wav"))
        assert list(clips) == ["é"]
        assert "left out, 1 in all: names that are not UTF-8" in notes
        assert "\\x" in notes
        notes.encode()

    def test_a_corpus_in_a_folder_that_is_not_utf_8(self, tmp_path):
        with pytest.raises(ValueError, match=r"\\xe9: found a path that is not UTF-8"):
            read(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))

    @pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[2Jb", "a b", "a\\b", "'a\"", "-a", "a\u202eb", "e\u0301"])
    def test_any_other_name_is_a_clip_that_can_be_stored(self, name, tmp_path):
        touch(tmp_path / "corpus", f"{name}.wav", f"{name}.xyz")
        clips, notes = read(tmp_path / "corpus")
        assert list(clips) == [name]
        manifest.write(tmp_path / "m.parquet", clips.values())
        assert manifest.read(tmp_path / "m.parquet") == list(clips.values())
        assert notes.replace("\n", "").isprintable()

    @pytest.mark.parametrize("corpus", ["folder", "class_folders", "auto"])
    def test_pipes_are_never_opened(self, corpus, tmp_path):
        touch(tmp_path, "sad/clip.wav")
        for name in ("sad/clip.txt", "sad/other.wav", "sad/third.ts", "sad/label.csv", "label.csv", "dev_sent_emo.csv"):
            os.mkfifo(tmp_path / name)
        clips, notes = read(tmp_path, corpus)
        assert [(name, clip.text) for name, clip in clips.items()] == [("sad/clip", None)]
        assert "left out, 6 in all: pipes, sockets or devices" in notes


class TestLinks:
    @pytest.mark.parametrize("corpus", ["auto", "folder", "class_folders", "ravdess", "mer2024", "meld"])
    @pytest.mark.parametrize("name", ["sad/a.mp4", "sad/a.txt", "sad/x", "sad/a.csv", "dev_sent_emo.csv"])
    def test_nothing_comes_from_outside_unless_it_is_allowed(self, name, corpus, tmp_path):
        private = touch(tmp_path / "private", "a.mp4", "a.txt", "x/a.mp4", "a.csv", "dev_sent_emo.csv")
        (touch(tmp_path, "corpus/sad/b.mp4") / "corpus" / name).symlink_to(private / Path(name).name)
        with pytest.raises(ValueError, match=rf"corpus: found links .*\({name}\), .*data\.outside_root=true"):
            read(tmp_path / "corpus", corpus)

    def test_media_and_transcripts_elsewhere_where_they_are_allowed(self, tmp_path):
        touch(tmp_path, "disk/a.mp4", "corpus/b.mp4")
        (tmp_path / "disk" / "b.txt").write_text("Yes.")
        for name in ("a.mp4", "b.txt"):
            (tmp_path / "corpus" / name).symlink_to(tmp_path / "disk" / name)
        clips, _ = read(tmp_path / "corpus", outside_root=True)
        assert clips["a"].video == str(tmp_path / "corpus" / "a.mp4")
        assert clips["b"].text == "Yes."

    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("label.csv", [["name", "discrete"], ["a", "sad"], ["../../private/a", "sad"]]),
            ("dev_sent_emo.csv", [MELD_HEADER, ["Hey.", "joy", "Joey", "0/../../../private/x", 0]]),
        ],
    )
    def test_tables_in_a_folder_name_no_files_outside(self, name, rows, tmp_path):
        touch(tmp_path, "corpus/a.mp4", "private/a.mp4")
        table(tmp_path / "corpus" / name, *rows)
        corpus = "mer2024" if name == "label.csv" else "meld"
        with pytest.raises(ValueError, match=r"corpus: clip '.*\.\./private/.* leads out of .*data\.outside_root=true"):
            read(tmp_path / "corpus", corpus)

    def test_transcripts_inside_may_be_links_and_the_corpus_too(self, tmp_path):
        touch(tmp_path, "corpus/a.mp4", "corpus/b.mp4")
        (tmp_path / "corpus" / "texts").mkdir()
        (tmp_path / "corpus" / "texts" / "same.txt").write_text("Yes.")
        for name in "ab":
            (tmp_path / "corpus" / f"{name}.txt").symlink_to("texts/same.txt")
        (tmp_path / "alias").symlink_to("corpus")
        assert [clip.text for clip in read(tmp_path / "alias")[0].values()] == ["Yes.", "Yes."]

    @pytest.mark.parametrize("target", ["gone.txt", "a.txt"])
    def test_links_that_lead_nowhere_are_a_missing_medium_and_no_transcript(self, target, tmp_path):
        touch(tmp_path, "a.mp4")
        (tmp_path / "a.txt").symlink_to(target)
        (tmp_path / "b.mp4").symlink_to(target)
        clips, notes = read(tmp_path)
        assert [(clip.text, clip.video) for clip in clips.values()] == [
            (None, str(tmp_path / "a.mp4")),
            (None, str(tmp_path / "b.mp4")),
        ]
        assert "left out, 1 in all: transcripts that are links to nowhere (a.txt)" in notes

    def test_a_table_that_leads_nowhere_is_named(self, tmp_path):
        (tmp_path / "dev_sent_emo.csv").symlink_to("gone.csv")
        with pytest.raises(ValueError, match=r"dev_sent_emo\.csv: .*cannot be read"):
            read(tmp_path)


def test_a_transcript_that_is_a_git_lfs_pointer_is_named(tmp_path):
    (touch(tmp_path, "a.mp4") / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(ValueError, match=r"a\.txt: .*git lfs pull"):
        read(tmp_path)
