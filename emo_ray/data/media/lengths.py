"""What the first bytes of a file state about its length, read without decoding.

FFmpeg shortens the stated length of a cut file to what is there, and guesses a length where none is stated. Neither
tells a whole file from half a file, so the headers are read here.
"""

from typing import BinaryIO, Literal

# Sizes from here on are what programs write that do not know the size when they start.
_UNKNOWN_32, _UNKNOWN_64 = 0x7FFFF000, 2**62
_AT_ONCE = 2**16  # bytes
_MOST_CHUNKS = 1000  # a file of zeros would be one of a thousand million empty chunks
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # first GUID of a file
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ID3_SIZE_BITS = 7  # that each byte of a size holds


def stated_share(file: BinaryIO, size: int) -> float:
    """Bytes of content in the file divided by the bytes that its header states; 1 where no header states them.

    For WAV, RF64, W64, AIFF, AIFC, AU, CAF, ASF (WMA, WMV), and for MP3 with a Xing, Info or VBRI tag.
    """
    span = _stated_span(file, size, _bytes_at(file, 0, 16))
    if span is None:
        return 1.0
    start, length = span
    return min(1.0, max(0, size - start) / length) if 0 < length < _UNKNOWN_64 else 1.0


def _stated_span(file: BinaryIO, size: int, magic: bytes) -> tuple[int, int] | None:
    """Where the content starts, and its stated length in bytes; None where no length is stated."""
    span: tuple[int, int] | None = None
    if magic[:4] == b"RF64":
        return _rf64(file, size)
    if magic[:4] == b"riff":
        return _w64(file, size)
    if magic[:4] == b"caff":
        return _caf(file, size)
    if magic == _ASF:
        return _asf(file)
    if magic[:4] == b"RIFF" and magic[8:12] == b"WAVE":
        span = _chunk(file, size, 12, b"data", "little")
    elif magic[:4] == b"FORM" and magic[8:11] == b"AIF":
        span = _chunk(file, size, 12, b"SSND", "big")
    elif magic[:4] == b".snd":
        span = (int.from_bytes(magic[4:8], "big"), int.from_bytes(magic[8:12], "big"))
    else:
        span = _mp3(file)
    return span if span is not None and span[1] < _UNKNOWN_32 else None


def lacks_end_mark(file: BinaryIO, size: int) -> bool:
    """Whether a GIF or Ogg file has lost its end; nothing in it tells how much that is."""
    magic = _bytes_at(file, 0, 4)
    if magic == b"GIF8":
        return not _bytes_at(file, max(0, size - 1024), 1024).rstrip(b"\0").endswith(b"\x3b")
    if magic == b"OggS":  # a page is at most 65,307 bytes long; the last of a stream is marked
        tail = _bytes_at(file, max(0, size - _AT_ONCE), _AT_ONCE)
        page = tail.rfind(b"OggS")
        return page < 0 or not tail[page + 5 : page + 6] or not tail[page + 5] & 4
    return False


def matroska_states_duration(file: BinaryIO) -> bool:
    """Whether a Matroska or WebM file has a Duration: browsers that record leave it out, and FFmpeg then guesses."""
    if _bytes_at(file, 0, 4) != b"\x1a\x45\xdf\xa3":
        return False
    head = _bytes_at(file, 0, _AT_ONCE)
    info = head.find(b"\x15\x49\xa9\x66")
    return info >= 0 and b"\x44\x89" in head[info : info + 300]


def ogg_states_duration(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg file tells the end of a stream that begins at the start of the file.

    Where files were joined it does not, and FFmpeg then guesses. Pages that are damaged FFmpeg leaves out silently.
    """
    head, tail = _bytes_at(file, 0, _AT_ONCE), _bytes_at(file, max(0, size - _AT_ONCE), _AT_ONCE)
    page = tail.rfind(b"OggS")
    serial = tail[page + 14 : page + 18] if page >= 0 else b""
    serials = [page[10:14] for page in head.split(b"OggS")]
    return head[:4] == b"OggS" and len(serial) == 4 and serial in serials


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _chunk(
    file: BinaryIO, size: int, place: int, name: bytes, order: Literal["little", "big"]
) -> tuple[int, int] | None:
    """Start and stated length of the content of a named RIFF or IFF chunk; None where the file ends before it."""
    for _ in range(_MOST_CHUNKS):
        if place + 8 > size:
            break
        header = _bytes_at(file, place, 8)
        length = int.from_bytes(header[4:], order)
        if header[:4] == name:
            return place + 8, length
        place += 8 + length + length % 2
    return None


def _rf64(file: BinaryIO, size: int) -> tuple[int, int] | None:
    data = _chunk(file, size, 12, b"data", "little")
    sizes = _chunk(file, size, 12, b"ds64", "little")
    if data is None or sizes is None:
        return None
    return data[0], int.from_bytes(_bytes_at(file, sizes[0] + 8, 8), "little")


def _w64(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Chunks of Sony's Wave64: a GUID of 16 bytes, 8 bytes of size that count the header, content up to 8 bytes."""
    place = 40
    for _ in range(_MOST_CHUNKS):
        if place + 24 > size:
            break
        header = _bytes_at(file, place, 24)
        length = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            return place + 24, length - 24
        place += max(24, -(-length // 8) * 8)
    return None


def _caf(file: BinaryIO, size: int) -> tuple[int, int] | None:
    place = 8
    for _ in range(_MOST_CHUNKS):
        if place + 12 > size:
            break
        header = _bytes_at(file, place, 12)
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:4] == b"data":
            return place + 12, length
        place += 12 + max(0, length)
    return None


def _asf(file: BinaryIO) -> tuple[int, int] | None:
    """The size of the whole file, unless it is a broadcast, whose header was written before its end was known."""
    head = _bytes_at(file, 0, _AT_ONCE)
    place = head.find(_ASF_FILE_PROPERTIES)
    if place < 0 or len(head) < place + 92 or head[place + 88] & 1:
        return None
    return 0, int.from_bytes(head[place + 40 : place + 48], "little")


def _mp3(file: BinaryIO) -> tuple[int, int] | None:
    """The span that the Xing or VBRI tag of an MP3 file states; None where the file has no such tag or is no MP3."""
    start = _id3_size(file)
    frame = _bytes_at(file, start, 192)
    if len(frame) < 192 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    xing = max(frame.find(b"Xing", 4, 60), frame.find(b"Info", 4, 60))
    if xing >= 0 and frame[xing + 7] & 2:
        place = xing + (12 if frame[xing + 7] & 1 else 8)  # a number of frames may come before that of bytes
    elif frame[36:40] == b"VBRI":
        place = 46
    else:
        return None
    return start, int.from_bytes(frame[place : place + 4], "big")


def _id3_size(file: BinaryIO) -> int:
    """Bytes of the ID3v2 tag at the start of a file; 0 where it has none."""
    header = _bytes_at(file, 0, 10)
    if len(header) < 10 or header[:3] != b"ID3":
        return 0
    size = 0
    for byte in header[6:]:
        size = size << _ID3_SIZE_BITS | byte & 0x7F
    return 10 + size
