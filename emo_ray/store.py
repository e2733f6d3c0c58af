"""How artefacts are written and recognised: temporary folder, then rename; `meta.json`; digests.

An artefact is a folder `<root>/<kind>/<digest>` whose digest is taken over everything that decides its content. It is
complete exactly when its `meta.json` is there, because that is written last and the folder appears by one rename.
`artefact` is the one way to make it.
"""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

META = "meta.json"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_PARQUET, _SEAL, _DIGEST_BYTES = b"PAR1", b"emo_ray footer: ", 16
_FULL_READ_BYTES = 64 * 2**20
_QUIET_WAIT_S = 5.0  # for a lock, before its holder is named
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # what a file system without locks says


class DamagedFile(ValueError):
    """A file of the store that is cut, or whose content is not what was written. It may cross processes."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{self.path}: found a damaged file ({self.reason}), expected it as it was written: it is set aside as "
            f"{self.path.name}.damaged, and the job that needs it makes it again where its source is there"
        )


def digest(*parts: Any) -> str:
    """16 hex digits over JSON-able parts and paths; equal parts give equal digests on every machine.

    Raises TypeError for anything else: its text might differ between machines or hide what it holds.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_path_text)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _path_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"found {type(value).__name__}, expected JSON-able values and paths alone")


def digest_path(path: Path) -> str:
    """Digest of a file or folder by content; files over 64 MiB by size, modification time, head and tail."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    seen = hashlib.blake2b(digest_size=8)
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        seen.update(f"{name}:{size};".encode(errors="surrogateescape"))  # names may have any bytes
        with file.open("rb") as stream:
            seen.update(stream.read(_FULL_READ_BYTES))
            if size > _FULL_READ_BYTES:
                seen.update(str(file.stat().st_mtime_ns).encode())
                stream.seek(-(2**20), os.SEEK_END)
                seen.update(stream.read())
    return seen.hexdigest()


def artefact(folder: Path, meta: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
    """Make the artefact in `folder` unless it is complete, and return its `meta.json`.

    `fill(temporary_folder)` writes the content, and may return further entries of the meta. Of several processes that
    need the artefact, one makes it and the others wait. Where `fill` raises, nothing is left; what a killed process
    left is removed by the next one.
    """
    if not is_complete(folder):
        with lock(folder.with_name(f".{folder.name}.lock")) as is_alone:
            if not is_complete(folder):
                for leftover in folder.parent.glob(f".{folder.name}-*") if is_alone else ():
                    shutil.rmtree(leftover, ignore_errors=True)
                entries = dict(meta)
                with writing(folder, entries) as temporary:
                    entries.update(fill(temporary) or {})
    return read_meta(folder)


def is_complete(folder: Path) -> bool:
    """Whether an artefact is there and whole."""
    return (folder / META).is_file()


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of `meta.json`. Raises ValueError where the folder is not a complete artefact."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: found no {META}, expected a finished artefact: run its stage again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder / META}: found no JSON ({type(error).__name__}), expected what a stage writes last: remove the "
            "folder and run its stage again"
        ) from None
    if not isinstance(meta, dict):
        raise ValueError(f"{folder / META}: found {type(meta).__name__}, expected a mapping: run its stage again")
    return meta


@contextmanager
def writing(folder: Path, meta: dict[str, Any]) -> Iterator[Path]:
    """A fresh folder to fill, which becomes `folder` (with `meta.json`) if the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    temporary.mkdir()  # as the umask says, unlike a folder of tempfile
    try:
        yield temporary
        finish(temporary, folder, meta)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish(temporary: Path, folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` into a filled folder and rename it into place; a complete one that is there already wins."""
    write_text(temporary / META, json.dumps(meta, indent=1, ensure_ascii=False, default=_path_text))
    try:
        temporary.rename(folder)  # never replaces a folder that holds anything
    except OSError:
        if not folder.is_dir():
            raise
        if is_complete(folder):
            shutil.rmtree(temporary)
            return
        shutil.rmtree(folder)  # an incomplete one of an interrupted copy; ours is whole
        temporary.rename(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new content, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    with renamed(path) as temporary:
        temporary.write_bytes(content)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the header among them, as CSV that people may open in a spreadsheet.

    Text that a spreadsheet would take for a formula, and run, gets an apostrophe in front, which it shows as text.
    """
    with renamed(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([[_as_text(cell) for cell in row] for row in rows])


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def write_parquet(path: Path, table: pa.Table, rows_per_group: int = 32, codec: str = "zstd") -> None:
    """Write a Parquet file atomically; small row groups so that readers can stream.

    Pages have checksums, and the footer has a digest in front of it, where other readers of Parquet do not look.
    """
    with renamed(path) as temporary:
        pq.write_table(table, temporary, row_group_size=rows_per_group, compression=codec, write_page_checksum=True)
        with temporary.open("r+b") as stream:
            footer = _footer(stream)
            stream.seek(-len(footer), os.SEEK_END)
            stream.write(_SEAL + _footer_digest(footer) + footer)


def read_parquet(path: Path, *, whole_artefact: bool = False, **options: Any) -> pa.Table:
    """The rows of a file that `write_parquet` wrote; `options` are those of pyarrow, such as `columns` and `filters`.

    Files of earlier versions have no checksums; of them only what Parquet itself tells is noticed.

    A file that is cut or damaged is set aside as NAME.damaged, so that its stage makes it again; with `whole_artefact`
    the artefact that it lies in as well. Raises DamagedFile for it, and OSError for trouble with reading.
    """
    try:
        check_footer(path)
        return pq.read_table(path, page_checksum_verification=True, **options)
    except Exception as error:
        damage = error if isinstance(error, DamagedFile) else _damage(path)
        if damage is None:
            raise  # the file is whole: trouble of this machine, or options that do not fit
    with suppress(OSError):  # a store that cannot be written
        path.replace(path.with_name(f"{path.name}.damaged"))
        if whole_artefact:
            (path.parent / META).unlink(missing_ok=True)
    raise damage


def _damage(path: Path) -> DamagedFile | None:
    """What is wrong with the content of a Parquet file, told by reading all of it; None where it can be read.

    Raises OSError and MemoryError for trouble with reading.
    """
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            file.read()
    except MemoryError:
        raise
    except Exception as error:  # damage makes Arrow fail in any way
        if getattr(error, "errno", None) is not None:  # errors of content have none
            raise
        return DamagedFile(path, str(error).partition("\n")[0][:200])
    return None


def check_footer(path: Path) -> None:
    """Raises DamagedFile where a Parquet file has no footer, or another than `write_parquet` wrote."""
    with path.open("rb") as stream:
        footer = _footer(stream)
        stream.seek(-min(len(footer) + len(_SEAL) + _DIGEST_BYTES, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        seal = stream.read(len(_SEAL) + _DIGEST_BYTES)
    if len(footer) <= 8 or footer[-4:] != _PARQUET:
        raise DamagedFile(path, "no end of a Parquet file")
    if seal.startswith(_SEAL) and seal != _SEAL + _footer_digest(footer):
        raise DamagedFile(path, "a footer that differs from its digest")


def _footer(stream: BinaryIO) -> bytes:
    """The end of a Parquet file: its metadata, their length in 4 bytes, and PAR1. As much as there is of it."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(-min(8, size), os.SEEK_END)
    length = int.from_bytes(stream.read(4), "little") + 8
    stream.seek(-min(length, size), os.SEEK_END)
    return stream.read(length)


def _footer_digest(footer: bytes) -> bytes:
    return hashlib.blake2b(footer, digest_size=_DIGEST_BYTES).digest()


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; its bytes are shared where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def lock(path: Path, timeout_s: float = -1) -> Iterator[bool]:
    """Let one process at a time hold this lock file; others wait. The lock goes with its process, however that ends.

    The value is whether the file is locked: where files cannot be, nobody waits, and work may be done twice, which
    costs time and harms nothing. A process that waits for seconds says for whom. Raises TimeoutError after `timeout_s`
    (negative: never).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        is_locked = True
        try:
            _acquire(stack, path, timeout_s)
            _write_holder(path, f"{os.getpid()}\n{socket.gethostname()}\n")
            stack.callback(_write_holder, path, "")
        except NotImplementedError:
            is_locked = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            is_locked = False
        yield is_locked


def _acquire(stack: ExitStack, path: Path, timeout_s: float) -> None:
    """Acquire the lock for as long as the stack is open, and say whenever another process than before has it."""
    begun_s, said = time.monotonic(), ""
    while True:
        left_s = math.inf if timeout_s < 0 else timeout_s - (time.monotonic() - begun_s)
        try:
            lock_file = filelock.FileLock(path, timeout=max(0.0, min(_QUIET_WAIT_S, left_s)), poll_interval=0.1)
            stack.enter_context(lock_file)
            return
        except filelock.Timeout:
            if left_s <= _QUIET_WAIT_S:
                raise TimeoutError(f"{path}: found another holder for {timeout_s:g} s") from None
        if (holder := _holder(path)) != said:
            print(f"waiting for {holder}: it holds {path} until it ends", file=sys.stderr, flush=True)
            said = holder


def _holder(path: Path) -> str:
    """The process that wrote itself into a lock file, for people."""
    with suppress(OSError, ValueError):
        process, machine = path.read_text(encoding="utf-8").split()
        here = "this machine" if machine == socket.gethostname() else machine
        return f"process {process} on {here}"
    return "another process"


def _write_holder(path: Path, text: str) -> None:
    """Write into a lock file who holds it, in the form of filelock's own files: process id and machine, a line each."""
    with suppress(OSError), path.open("r+", encoding="utf-8") as file:  # it only informs
        file.truncate()
        file.write(text)


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` at once if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # process ids repeat across nodes
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
