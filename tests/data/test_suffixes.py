"""Suffixes: each one that FFmpeg or Python's MIME table calls media is taken, or left out for a reason."""

import mimetypes

import av
import pytest
from av.format import ContainerFormat

from emo_ray.data.suffixes import AUDIO_SUFFIXES, MEDIA_SUFFIXES, VIDEO_SUFFIXES, is_media, suffix

LEFT_OUT = {
    "images, also moving ones": "apng avif bmp dpx exr fits flm gif hdr heic heif ico im1 im24 im8 j2c j2k jls jp2 "
    "jpeg jpg jxl jxs ljpg mpo pam pbm pcx pfm pgm pgmyuv phm pix png ppm psp qoi ras rs sgi sun sunras tga tif tiff "
    "vbn wbmp webp xbm xface xwd y",
    "text, subtitles and playlists": "ans aqt art asc ass cgi diz ffmeta ice idf idx ism js jss lrc m3u m3u8 mcc mks "
    "mpd mpl2 nfo pjs rt sami sbg scc smi srt ssa stl sub sup ttml txt vt vtt webvtt xml",
    "samples or pixels without a header that says their rate or size": "al bit bitpacked cif pcm qcif rgb rco sb sw "
    "tco ub ul uw v210 yuv yuv10 302 722 daud",
    "notes and instruments, not sound": "mid midi apm tun",
    "names that other programs use": "a64 afc adf adp ads apc avs cdata cdg cdxl chk dat dtk fap laf lvf mac mca "
    "mods mxg nsp paf pdv sds ser sf sga son ss2 str svs ty+ v vb vpk wa way xl yop",
    "films of games": "aud bmv cpk cvg fwse ifv ipu imx rsd sdns sdr2",
}
REASON_OF = {f".{word}": reason for reason, words in LEFT_OUT.items() for word in words.split()}


def suffixes_of_ffmpeg():
    for name in av.formats_available:
        for mode in "rw":
            try:
                extensions = ContainerFormat(name, mode).extensions
            except ValueError:
                continue
            yield from (f".{extension.strip().lower()}" for extension in extensions)


def test_every_suffix_of_ffmpeg_is_taken_or_left_out_for_a_reason():
    undecided = set(suffixes_of_ffmpeg()) - MEDIA_SUFFIXES - REASON_OF.keys()
    assert not undecided, f"take {sorted(undecided)} in emo_ray/data/suffixes.py, or say here why not"


def test_pythons_table_of_mime_types_agrees():
    types_of_media = mimetypes.MimeTypes(filenames=()).types_map[1]
    kinds = {name: kind.partition("/")[0] for name, kind in types_of_media.items()}
    media = {name for name, kind in kinds.items() if kind in ("audio", "video")}
    assert media <= MEDIA_SUFFIXES | REASON_OF.keys()
    both = {".3g2", ".3gp", ".3gpp", ".3gpp2"}  # pictures and sound, or sound alone
    assert {name for name in media & AUDIO_SUFFIXES if kinds[name] == "video"} <= {".mpa"}  # FFmpeg: sound
    assert {name for name in media & VIDEO_SUFFIXES if kinds[name] == "audio"} <= both


def test_a_suffix_is_of_sound_or_of_video_and_nothing_is_taken_and_left_out():
    assert not AUDIO_SUFFIXES & VIDEO_SUFFIXES
    assert MEDIA_SUFFIXES & REASON_OF.keys() == set()


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "b/a.asf", "a.mkv", "a.3gp", "a.webm", "a.RM", "a.Mxf"])
def test_what_may_hold_both_counts_as_video(name):
    assert suffix(name) in VIDEO_SUFFIXES


@pytest.mark.parametrize("name", ["a.amr", "a.AIF", "a.caf", "a.sph", "a.w64", "a.wv", "a.Wma", "a.au", "b.c/a.opus"])
def test_sound(name):
    assert suffix(name) in AUDIO_SUFFIXES


def test_a_transport_stream_is_told_from_type_script(tmp_path):
    packet = bytes([0x47, 0x40, 0x11, 0x10, 0, 0x42, 0xF0, 0x25]) + b"\xff" * 180
    contents = {"clip.ts": packet * 8, "clip.MTS": b"\0\0\0\0" + packet, "empty.ts": b"", "code.mpg": b"text"}
    text = {"app.ts": b"export const a = 1;\n", "german.mts": ("// ü" * 600).encode(), "bom.ts": b"\xef\xbb\xbf<TS/>"}
    for name, content in {**contents, **text}.items():
        (tmp_path / name).write_bytes(content)
    assert [name for name in {**contents, **text} if is_media(name, tmp_path)] == list(contents)
    assert is_media("gone.ts", tmp_path)
