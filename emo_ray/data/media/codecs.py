"""What the FFmpeg that PyAV carries can decode."""

import av

# What telephones, cameras, browsers and corpora write most; a corpus may do without some of them.
USUAL = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")


def missing_decoders() -> list[str]:
    """The usual codecs that cannot be decoded."""
    return [name for name in USUAL if name not in av.codecs_available]


def versions() -> str:
    """PyAV's version, and that of FFmpeg's codecs in it."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
