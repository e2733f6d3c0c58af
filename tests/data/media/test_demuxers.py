"""Demuxers that may read a clip: all of media, none that opens what a file names."""

import av
import pytest

from emo_ray.data.media import read_audio, read_video
from emo_ray.data.media.demuxers import OPTIONS
from emo_ray.data.suffixes import MEDIA_SUFFIXES

ALLOWED = set(OPTIONS["format_whitelist"].split(","))


def input_formats():
    for name in sorted(av.formats_available):
        try:
            yield av.format.ContainerFormat(name, "r")
        except ValueError:  # formats that FFmpeg writes only
            continue


def test_every_suffix_that_is_media_has_its_demuxer():
    refused = {"mpjpeg"}  # pictures of a web camera, for `.mjpg`; the demuxer mjpeg reads such files
    missing = {
        form.name
        for form in input_formats()
        if {f".{end}" for end in form.extensions} & MEDIA_SUFFIXES and not set(form.name.split(",")) & ALLOWED
    }
    assert missing == refused


@pytest.mark.parametrize(
    "name", ["hls", "concat", "sdp", "rtsp", "rtp", "sap", "lavfi", "alsa", "fbdev", "vobsub", "dash"]
)
def test_demuxers_that_open_other_things_are_refused(name):
    assert name not in ALLOWED


@pytest.mark.parametrize("place", ["path", "address"])
@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".wav", ""])
@pytest.mark.parametrize("kind", ["hls", "concat", "sdp"])
def test_a_file_that_names_another_is_not_followed(tmp_path, media_files, kind, suffix, place):
    target = media_files["ts"]
    text = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {target.name}\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 40004 RTP/AVP 0\n",
    }[kind]
    (tmp_path / target.name).write_bytes(target.read_bytes())
    path = tmp_path / f"clip{suffix}"
    path.write_text(text)
    source = str(path) if place == "path" else path.as_uri()
    for values, status in (read_video(source, 2, 32), read_audio(source, 60.0)):
        assert values is None
        assert status.startswith("corrupt: ")


def test_a_picture_whose_name_holds_a_pattern_is_that_file(tmp_path):
    from PIL import Image

    for name, grey in (("face_%d.png", 200), ("face_1.png", 20)):
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(tmp_path / name)
    frames_THWC, status = read_video(str(tmp_path / "face_%d.png"), 1, 32)
    assert status == "ok"
    assert frames_THWC.mean() == pytest.approx(200, abs=3)
