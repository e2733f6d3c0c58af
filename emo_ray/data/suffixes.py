"""Which file names are media, by their suffix: the one list of what is taken from folders and what counts as sound.

A list written down gives the same clips on every machine, which lists asked of FFmpeg or of the system's MIME table
would not. tests/data/test_suffixes.py holds it against both: each of their suffixes is here or is left out for a
reason. Left out are images, text, playlists, samples without a header (nothing says their rate), and names that other
programs use for something else (`.dat`, `.mod`, `.bin`, `.str`).
"""

from pathlib import Path, PurePosixPath


def _suffixes(words: str) -> frozenset[str]:
    return frozenset(f".{word}" for word in words.split())


# Suffixes of formats that can hold sound alone.
AUDIO_SUFFIXES = _suffixes(
    # speech and telephony
    "wav wave bwf rf64 w64 aif aiff aifc au snd caf sph nist voc amr awb 3ga qcp gsm lbc dss sln ircam pvf "
    # music
    "mp1 mp2 mp3 m2a mpa mpga mpega aac adts latm loas m4a m4b m4p m4r isma ogg oga opus spx axa mka weba flac wma "
    "xwma ra ape apl tta tak wv mpc shn osq bonk rka vqf vqe vql aa aax aa3 at3 oma omg dsf dff wsd iamf qoa "
    # Dolby, DTS, Bluetooth and other coded streams that say their own rate
    "ac3 ac4 ec3 eac3 mlp thd dts dtshd sbc msbc lc3 aptx aptxhd g722 g723_1 g728 g729 c2 dfpwm spdif "
    # trackers of games and studios
    "acm adx aix aea ast avr sox fsb hca binka brstm bfstm bcstm genh msf mtaf musx rso sdx svag vag xvag xmd mmf"
)
# Suffixes of formats that may hold pictures. Many may hold sound alone too: then the clip has no video stream.
VIDEO_SUFFIXES = _suffixes(
    # phones, cameras, browsers, screen recorders
    "mp4 mpg4 m4v mov qt 3gp 3gpp 3g2 3gpp2 f4v ismv mj2 mjp2 mkv mk3d webm avi divx flv kux asf wm wmv "
    # camcorders, discs, television
    "mts m2ts m2t ts tp trp tod mpg mpeg mpe mpv m1v m2v m2p vob vro evo dvd dv dif mxf gxf wtv ty dav "
    # the rest of the containers
    "ogv ogm ogx axv rm rmvb nut nuv nsv y4m ivf amv viv ivr swf fli flc bik bk2 smk roq movie mvi moflex usm xmv "
    # streams without a container
    "264 h264 h26l avc 265 h265 hevc 266 h266 vvc av1 obu h261 h263 vc1 rcv vc2 drc cavs avs2 avs3 evc apv mjpg mjpeg "
    "dnxhd dnxhr"
)
MEDIA_SUFFIXES = AUDIO_SUFFIXES | VIDEO_SUFFIXES
_TEXT_TOO = {".ts", ".mts"}  # MPEG transport streams, and TypeScript or Qt translations
_HEAD_BYTES = 1024


def suffix(name: str) -> str:
    """The suffix of a path or URI in lower case, such as `.mp4`; empty where it has none."""
    return PurePosixPath(name).suffix.lower()


def is_media(name: str, folder: Path) -> bool:
    """Whether a file below `folder` is taken for media. Only files whose suffix text has too are opened for it."""
    return suffix(name) in MEDIA_SUFFIXES and not (suffix(name) in _TEXT_TOO and _is_text(folder / name))


def is_media_file(path: Path) -> bool:
    """Whether a path is a file that is taken for media."""
    return path.is_file() and is_media(path.name, path.parent)


def _is_text(path: Path) -> bool:
    """Whether a file begins with printable UTF-8, as no transport stream does."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return False
    for cut in range(min(4, len(head))):  # the last character may be cut in two
        try:
            text = head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        return all(character.isprintable() or character in "\t\r\n\f" for character in text)
    return False
