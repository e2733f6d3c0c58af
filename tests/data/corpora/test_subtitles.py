"""Subtitles beside a recording: each cue is a clip with its words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables_on_disk import table

from emo_ray.config.data_settings import Data
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.corpora.subtitles import Cue, read_cues

SRT = """1
00:00:01,500 --> 00:00:03,000
<i>Hello</i> {\\an8}there &amp; you
second line

2
00:00:03,000 --> 00:00:04,250 X1:100
- <font color="red">Why?</font> 1 < 2 and 3 > 2

3
00:00:05,000 --> 00:00:05,000
of no duration

4
01:00:07,000 --> 01:00:08,000
悲しい

5
01:00:07,000 --> 01:00:08,000
at the same time

6
01:00:09,000 --> 01:00:10,000
<b> </b>
"""
VTT = """WEBVTT

NOTE nobody says this

first
00:01.500 --> 00:03.000 align:start
<v Ann>Hello</v> <c.red>there</c> &lt;you&gt;

00:00:03.000 --> 00:00:04.250
Why?
Now
"""
CUES = [
    Cue(1.5, 3.0, "Hello there & you second line"),
    Cue(3.0, 4.25, "- Why? 1 < 2 and 3 > 2"),
    Cue(3607.0, 3608.0, "悲しい at the same time"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_cues_have_times_and_words_without_tags(tmp_path, encoding, line_end):
    (tmp_path / "a.SRT").write_bytes(SRT.replace("\n", line_end).encode(encoding))
    assert read_cues(tmp_path / "a.SRT") == CUES


def test_webvtt_is_read_too(tmp_path):
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_cues(tmp_path / "a.vtt") == [Cue(1.5, 3.0, "Hello there <you>"), Cue(3.0, 4.25, "Why? Now")]


@pytest.mark.parametrize("content", [b"", b"hello", b"WEBVTT", b"1\n99:99:99,999 --> 00:00:01,000\nx\n"])
@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_what_has_no_cue_gives_none(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert read_cues(tmp_path / f"a.{suffix}") == []


def test_text_that_is_not_unicode_is_one_message(tmp_path):
    (tmp_path / "a.srt").write_bytes(SRT.encode("gb18030"))
    with pytest.raises(ValueError, match=r"a\.srt: .*UTF-8"):
        read_cues(tmp_path / "a.srt")


def test_a_bare_folder_has_a_clip_for_each_cue(tmp_path):
    (tmp_path / "films").mkdir()
    table(tmp_path / "films/first.en.srt", SRT)
    table(tmp_path / "second.vtt", "WEBVTT\n")
    table(tmp_path / "third.txt", "all of it")
    for name in ("films/first.mp4", "second.wav", "third.mp4"):
        (tmp_path / name).touch()
    clips, notes = read_corpus(Data(manifest=str(tmp_path), corpus="folder"))
    assert [(clip.clip_id, clip.span_s, clip.text, clip.language) for clip in clips] == [
        *((f"films/first-{i}", cue[:2], cue.text, "en") for i, cue in enumerate(CUES, 1)),
        ("second", None, None, None),
        ("third", None, "all of it", None),
    ]
    assert {clip.video for clip in clips[:3]} == {str(tmp_path / "films/first.mp4")}
    assert any("1 recordings (films/first)" in note for note in notes)
    assert not any("left out" in note for note in notes)


def test_two_transcripts_of_a_recording_are_an_error(tmp_path):
    for name, text in (("a.srt", SRT), ("a.txt", "x"), ("a.mp4", "")):
        table(tmp_path / name, text)
    with pytest.raises(ValueError, match=r"a\.srt.*a\.txt"):
        read_corpus(Data(manifest=str(tmp_path), corpus="folder"))


PIECES = st.sampled_from(
    ["1\n", "00:00:01,000", " --> ", "00:00:02.500", "-00:01", "\n", "\n\n", "<i>", "{\\an8}", "{", "<", "&#0;", "\0"]
)


@given(pieces=st.lists(PIECES | st.text(max_size=8), max_size=24), suffix=st.sampled_from(["srt", "vtt"]))
def test_any_text_is_cues_with_words_in_order(pieces, suffix, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_text("WEBVTT\n\n" * (suffix == "vtt") + "".join(pieces), encoding="utf-8", newline="")
    cues = read_cues(path)
    assert all(0 <= cue.start_s < cue.end_s and cue.text.strip() for cue in cues)
    assert [cue[:2] for cue in cues] == sorted({cue[:2] for cue in cues})
