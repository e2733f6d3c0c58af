"""How artefacts are written and recognised: temporary folder, then rename; `meta.json`; digests.

An artefact is a folder `<root>/<kind>/<digest>` whose digest is taken over everything that decides its content. It is
complete exactly when its `meta.json` is there, because that is written last and the folder appears by one rename.
`artefact` is the one way to make it. Files are written by `durable`: a power cut leaves them whole or leaves nothing. A
store may lie in a bucket: then its root is a folder of `bucket`, which is filled by need, and whether a file is there
is asked with `exists` and `names`.
"""

import fnmatch
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from emo_ray import bucket, durable
from emo_ray.locks import lock

META = "meta.json"
FILES, DIGESTS = "files", "digests"  # entries of a meta: size and digest of each file; what a checkpoint checks itself
REWRITTEN = "rewritten"  # entry of a meta: files that later artefacts change, such as a page that links to them
DAMAGED = ".damaged"  # the ending of damaged files that are set aside
_FULL_READ_BYTES = 64 * 2**20
_STRETCHES, _STRETCH_BYTES = 64, 2**20  # of larger files


class DamagedFile(ValueError):
    """A file of the store that is cut, or whose content is not what was written. It may cross processes."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{self.path}: found a damaged file ({self.reason}), expected it as it was written: copy it again, or set "
            "it aside with jobs/verify.py verify.mend=true and run the job that makes it"
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
    """Digest of a file or folder by content; files over 64 MiB by size, modification time and 64 stretches of 1 MiB.

    The stretches are spread evenly from head to tail, so that models which differ in some layers alone are told apart.
    """
    bucket.fetch_all(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    hasher = hashlib.blake2b(digest_size=8)
    for file in files:
        size = file.stat().st_size
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        hasher.update(f"{name}:{size};".encode(errors="surrogateescape"))  # names may have any bytes
        with file.open("rb") as stream:
            if size <= _FULL_READ_BYTES:
                hasher.update(stream.read())
                continue
            hasher.update(str(file.stat().st_mtime_ns).encode())
            for i in range(_STRETCHES):
                stream.seek(i * (size - _STRETCH_BYTES) // (_STRETCHES - 1))
                hasher.update(stream.read(_STRETCH_BYTES))
    return hasher.hexdigest()


def artefact(folder: Path, meta: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
    """Make the artefact in `folder` unless it is complete, and return its `meta.json`.

    `fill(temporary_folder)` writes the content, and may return further entries of the meta. Of several processes that
    need the artefact, one makes it and the others wait. Where `fill` raises, nothing is left; what a killed process
    left is removed by the next one. Raises DamagedFile as `check_files` does.
    """
    if not is_complete(folder):
        with being_made(folder) as is_alone:
            if not is_complete(folder):
                for leftover in folder.parent.glob(f".{folder.name}-*") if is_alone else ():
                    shutil.rmtree(leftover, ignore_errors=True)
                entries = dict(meta)
                with writing(folder, entries) as temporary:
                    entries.update(fill(temporary) or {})
    check_files(folder)
    return read_meta(folder)


def being_made(folder: Path, timeout_s: float = -1) -> AbstractContextManager[bool]:
    """The lock of an artefact (see `locks.lock`), which only the process that makes it holds."""
    return lock(folder.with_name(f".{folder.name}.lock"), timeout_s)


def is_complete(folder: Path) -> bool:
    """Whether an artefact is there and whole."""
    return bucket.fetch(folder / META).is_file()


def exists(path: Path) -> bool:
    """Whether a file or folder of the store is there. Of a store in a bucket it is not fetched for that."""
    return bucket.exists(path)


def names(folder: Path, pattern: str = "*") -> list[str]:
    """The sorted names of a folder's files that fit a pattern, without hidden ones. Costs one listing."""
    return sorted(fnmatch.filter(bucket.files(folder), pattern))


def missing(folder: Path, files: Iterable[str]) -> list[str]:
    """Which of these files a folder lacks. Costs one listing."""
    stored = set(bucket.files(folder))
    return [name for name in files if name not in stored]


def local(path: Path, choose: Callable[[str], bool] = lambda name: True) -> Path:
    """The path of a file or folder of the store, whose content is on this machine, as far as relative names are chosen.

    For those who read it other than with functions of this module and of `parquet`.
    """
    return bucket.fetch_all(path, choose)


def latest(path: Path) -> Path:
    """The path of a file of the store that another process adds to, as that one wrote it last."""
    return bucket.fetch_anew(path)


def address(path: Path) -> str:
    """A place in the store as other libraries take it: an absolute path, or the address in a bucket."""
    return bucket.address_of(path) or str(path)


def bytes_of(paths: Sequence[Path]) -> int:
    """The sizes of some files of one folder of the store, added up."""
    sizes = bucket.files(paths[0].parent) if paths else {}
    return sum(sizes[path.name][0] for path in paths)


def sizes(root: Path) -> dict[str, int]:
    """The size in bytes of every file below a folder of the store, without hidden ones, by relative name."""
    return {name: size for name, (size, _) in bucket.files(root, recursive=True).items()}


def remove(path: Path) -> None:
    """Remove a file or folder of the store, if it is there."""
    bucket.remove(path)


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` says, but for sizes and digests of files, which `files_of` gives.

    Raises ValueError where there is none, and DamagedFile where it is cut.
    """
    return {key: value for key, value in _meta(folder).items() if key != FILES}


def files_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and digest of an artefact's files by name; empty for artefacts of earlier versions.

    Raises as `read_meta` does.
    """
    files = _meta(folder).get(FILES, {})
    if not isinstance(files, dict):
        raise DamagedFile(folder / META, f"{type(files).__name__} in place of its files")
    return files


def check_files(folder: Path) -> None:
    """Raises DamagedFile for a file of an artefact that is gone, or has another size than when it was written."""
    listed = files_of(folder)
    stored = bucket.files(folder, recursive=True) if bucket.address_of(folder) else {}
    for name, (size, _) in listed.items():
        path = folder / name
        if path.is_file():
            size_now = path.stat().st_size
        elif name in stored:
            size_now = stored[name][0]
        else:
            raise DamagedFile(path, "it is gone")
        if size_now != size:
            raise DamagedFile(path, f"{size_now} of {size} bytes")


def _meta(folder: Path) -> dict[str, Any]:
    try:
        meta = read_json(folder / META)
    except FileNotFoundError:
        raise ValueError(f"{folder}: found no {META}, expected a finished artefact: run its stage again") from None
    if not isinstance(meta, dict):
        raise DamagedFile(folder / META, f"{type(meta).__name__} in place of a mapping")
    return meta


def read_json(path: Path) -> Any:
    """The content of a JSON file of the store. Raises DamagedFile where it is none, and OSError for other trouble."""
    try:
        return json.loads(bucket.fetch(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"no JSON: {error}" if path.stat().st_size else "it is empty") from None


def file_digest(path: Path) -> str:
    """Digest of a file's content, all of it."""
    with bucket.fetch(path).open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def set_aside(path: Path, root: Path) -> None:
    """Rename a damaged file of the store at `root` to NAME.damaged, so that the job that needs it makes it again.

    The artefacts that it lies in are no longer complete, except for readings, whose meta holds a name that is drawn
    once. Hard links to the file, such as those of predictions, share the damage and are set aside with it.
    """
    has_links = path.exists() and path.stat().st_nlink > 1
    twins = [twin for twin in root.rglob(path.name) if twin.samefile(path)] if has_links else [path]
    for twin in twins:
        with suppress(FileNotFoundError):  # another process has set it aside, or it is gone altogether
            aside = twin.with_name(twin.name + DAMAGED)
            bucket.send(twin, aside)
            twin.replace(aside)
        if bucket.address_of(twin):
            remove(twin)
        for folder in twin.relative_to(root).parents:
            if folder.parts[:1] != ("readings",):
                remove(root / folder / META)


@contextmanager
def writing(folder: Path, meta: dict[str, Any]) -> Iterator[Path]:
    """A fresh folder to fill, which becomes `folder` (with `meta.json`) if the block ends without an error."""
    durable.make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    temporary.mkdir()  # as the umask says, unlike a folder of tempfile
    try:
        yield temporary
        finish(temporary, folder, meta)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish(temporary: Path, folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` into a filled folder and rename it into place; a complete one that is there already wins."""
    write_meta(temporary, meta)
    if not bucket.send_folder(temporary, folder, META):
        shutil.rmtree(temporary)  # reading fetches the other one
        return
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
    durable.sync(folder.parent)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta.json` into a filled folder, with size and digest of its files.

    Left out are files that the meta has DIGESTS of or that are REWRITTEN, and those of artefacts inside, which have a
    meta themselves.
    """
    bucket.fetch_all(folder)
    inside = {path.parent for path in folder.rglob(f"*/{META}")}
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / META)
    paths = (path for path in paths if path.name == META or inside.isdisjoint(path.parents))
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = {
        name: ((folder / name).stat().st_size, file_digest(folder / name))
        for name in names
        if name not in meta.get(DIGESTS, {}) and name not in meta.get(REWRITTEN, ())
    }
    content = {**meta, FILES: files}
    durable.write_text(folder / META, json.dumps(content, indent=1, ensure_ascii=False, default=_path_text))
