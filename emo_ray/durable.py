"""How files are written, so that a reader sees all of one or nothing, also after a power cut.

A file is written under a temporary name, is on the disk, and then gets its name by one rename. A store may lie in a
bucket: then what is written here is sent there too.
"""

import csv
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from emo_ray import bucket

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # where it cannot be asked for


def write_text(path: Path, text: str, lasting: bool = True) -> None:
    """Write a text file so that readers see the old or the new content, never a part. See `renamed` for `lasting`."""
    write_bytes(path, text.encode("utf-8"), lasting)


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read, as `write_text` does."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def write_bytes(path: Path, content: bytes, lasting: bool = True) -> None:
    """Write a file so that readers see the old or the new content, never a part. See `renamed` for `lasting`."""
    with renamed(path, lasting) as temporary:
        temporary.write_bytes(content)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, which are on the disk on return. What a killed process left unfinished stays a line."""
    content = b"".join(line.encode("utf-8") + b"\n" for line in lines)
    if bucket.address_of(path):  # objects cannot grow: such files are kept small
        before = bucket.fetch_anew(path).read_bytes() if bucket.exists(path) else b""
        write_bytes(path, before + content)
        return
    make_folder(path.parent)
    is_new = not path.exists()
    with path.open("a+b") as stream:
        if stream.tell() and _last_byte(stream) != b"\n":
            stream.write(b"\n")
        stream.write(content)
    sync(path)
    if is_new:
        sync(path.parent)


def _last_byte(stream: BinaryIO) -> bytes:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the header among them, as CSV that people may open in a spreadsheet.

    Text that a spreadsheet would take for a formula, and run, gets an apostrophe in front, which it shows as text.
    """
    with renamed(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([[_as_text(cell) for cell in row] for row in rows])


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; its bytes are shared where the file system can."""
    make_folder(target.parent)
    bucket.send(bucket.fetch(source), target)
    try:
        os.link(source, target)
    except OSError:
        with renamed(target) as temporary:
            shutil.copy2(source, temporary)
    else:
        sync(target.parent)


@contextmanager
def renamed(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` at once if the block ends without an error.

    All that is written goes through here. It is on the disk before it gets its name: else a power cut could leave an
    empty file under it. What may be lost, such as progress, is written faster where `lasting` is false, and not sent to
    a bucket.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # process ids repeat across nodes
    try:
        yield temporary
        if lasting:
            sync(temporary)
            bucket.send(temporary, path)
        temporary.replace(path)
        if lasting:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, whose names are then on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # a full disk is told only now by some file systems
            raise
    finally:
        os.close(descriptor)
