"""Folders that stand for a place in a bucket (s3://, gs://): filled by need, and sent there as they are written.

`local_path` gives the folder of an address. It lies below a folder named FOLDER, and its path from there on is the
address. So every process of every machine knows which object stands behind a file, and paths may travel as they are.
`store` sends what it writes before it gets its name here: what is here is there as well. Files are fetched when they
are read. Names that begin with a dot stay on the machine. Other paths pass through every function unchanged.

Requests that fail are made again for a minute or so. What is left over is an OSError with EIO, trouble of the place.
"""

import errno
import os
import random
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

from emo_ray.addresses import is_address

if TYPE_CHECKING:
    from pyarrow import fs

FOLDER = "emo_ray_buckets"
_WAITS_S = (0.5, 3.0)  # before the tries that `arrow_s3` makes begin again
_LASTING = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")  # trying is in vain
_LISTED = 100  # objects
_THREADS = 16  # they wait for the network
Result = TypeVar("Result")


def local_path(address: str, cache_folder: Path) -> Path:
    """The folder or file below `cache_folder` that stands for an address."""
    scheme, _, rest = address.partition("://")
    return cache_folder / FOLDER / scheme / unquote(rest).strip("/")


def address_of(path: Path) -> str | None:
    """The address that a path stands for; None for other paths, and for those that stay on the machine."""
    place = _place(path)
    return None if place is None else f"{place[0]}://{quote(place[1])}"


def storage_of(path: Path) -> "tuple[str, fs.FileSystem | None]":
    """A place as Ray takes it to keep state in: path and file system, which is None for one on this machine."""
    place = _place(path)
    return (str(path), None) if place is None else (place[1], _filesystem(place[0], place[1].split("/")[0]))


def exists(path: Path) -> bool:
    """Whether a file or a folder with any file is there: here, or in the bucket."""
    if path.exists() or (place := _place(path)) is None:
        return path.exists()
    return _info(place).type.name != "NotFound"


def files(folder: Path, recursive: bool = False) -> dict[str, tuple[int, float]]:
    """Size in bytes and time (POSIX) of the files in a folder by relative name, without hidden ones; of the bucket's.

    One listing, of 1,000 names a request.
    """
    about: dict[str, tuple[int, float]] = {}
    if (place := _place(folder)) is None:
        for path in folder.rglob("*") if recursive else folder.glob("*"):
            with suppress(FileNotFoundError):  # another process has just renamed or removed it
                if stat.S_ISREG((status := path.stat()).st_mode):
                    about[path.relative_to(folder).as_posix()] = status.st_size, status.st_mtime
    else:
        from pyarrow import fs

        scheme, key = place
        selector = fs.FileSelector(key, allow_not_found=True, recursive=recursive)
        infos = tried(lambda: _filesystem(scheme, key.split("/")[0]).get_file_info(selector), folder)
        for info in infos:
            if info.is_file:
                about[info.path[len(key) + 1 :]] = info.size, info.mtime_ns / 1e9
    return {name: about[name] for name in about if not any(part.startswith(".") for part in name.split("/"))}


def listed(addresses: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Size in bytes and time (ns, in whole seconds, as single requests tell it) of many objects, by address.

    Only of folders of which `_LISTED` objects or more are asked for: each costs a request for 1,000 of its names, and
    not one for each object. Objects that are not there are left out.
    """
    addresses_in: dict[str, set[str]] = {}
    for address in addresses:
        if is_address(address) and not re.search(r"[?@#]", address):
            addresses_in.setdefault(address.rpartition("/")[0], set()).add(address)
    about: dict[str, tuple[int, int]] = {}
    for folder, objects in addresses_in.items():
        if len(objects) >= _LISTED:
            stored = files(local_path(folder, Path("/")))
            of_folder = {
                f"{folder}/{quote(name)}": (size, int(time_s) * 10**9) for name, (size, time_s) in stored.items()
            }
            about |= {address: of_folder[address] for address in objects & of_folder.keys()}
    return about


def fetch(path: Path) -> Path:
    """The path, whose file is here if it is in the bucket."""
    if not path.exists() and (place := _place(path)) is not None and (info := _info(place)).is_file:
        _download(path, place, info.size, info.mtime_ns / 1e9)
    return path


def fetch_anew(path: Path) -> Path:
    """The path, whose file is here as it is in the bucket now: for files that others change."""
    if (place := _place(path)) is not None:
        info = _info(place)
        if not info.is_file:
            path.unlink(missing_ok=True)
        elif not path.exists() or _differs(path, info.size, info.mtime_ns / 1e9):
            _download(path, place, info.size, info.mtime_ns / 1e9)
    return path


def fetch_all(path: Path, choose: Callable[[str], bool] = lambda name: True) -> Path:
    """The path of a file, or of a folder, whose chosen files, by relative name, are here as they are in the bucket."""
    if (place := _place(path)) is None or path.is_file():
        return path
    if _info(place).is_file:
        return fetch(path)
    scheme, key = place
    listed = {name: about for name, about in files(path, recursive=True).items() if choose(name)}
    if listed:
        path.mkdir(parents=True, exist_ok=True)
    absent = {n: about for n, about in listed.items() if not (path / n).exists() or _differs(path / n, *about)}
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: _download(path / name, (scheme, f"{key}/{name}"), *absent[name]), absent))
    return path


def send(source: Path, path: Path) -> None:
    """Write the content of a file, which gets the object's time, to the object that `path` stands for, if to any."""
    if (place := _place(path)) is None:
        return
    from pyarrow import fs

    scheme, key = place
    filesystem = _filesystem(scheme, key.split("/")[0])
    size = source.stat().st_size

    def copy() -> None:
        fs.copy_files(str(source), key, fs.LocalFileSystem(), filesystem, use_threads=False)
        if (written := filesystem.get_file_info(key)).size != size:
            raise OSError(f"{written.size} of {size} bytes arrived")
        os.utime(source, ns=(written.mtime_ns, written.mtime_ns))

    tried(copy, path)


def send_folder(source: Path, folder: Path, last: str) -> bool:
    """Send all files of a folder, that named `last` after all others; files of an earlier attempt are removed.

    False, and nothing is sent, where `last` is there already: another process has finished the same folder.
    """
    if _place(folder) is None:
        return True
    stored = files(folder, recursive=True)
    if last in stored:
        return False
    names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
    for name in stored.keys() - set(names):
        remove(folder / name)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: send(source / name, folder / name), [name for name in names if name != last]))
    send(source / last, folder / last)
    return True


def remove(path: Path) -> None:
    """Remove a file or folder, here and in the bucket, if it is there."""
    if (place := _place(path)) is not None:
        scheme, key = place
        filesystem = _filesystem(scheme, key.split("/")[0])
        info = _info(place)
        with suppress(FileNotFoundError):
            if info.type.name == "Directory":
                tried(lambda: filesystem.delete_dir(key), path)
            elif info.is_file:
                tried(lambda: filesystem.delete_file(key), path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def folder_of_buckets(path: Path) -> Path | None:
    """The folder on this machine below which a path stands for an object; None for other paths."""
    return None if _place(path) is None else next(parent for parent in path.parents if parent.name == FOLDER)


def _place(path: Path) -> tuple[str, str] | None:
    """Scheme and key, which begins with the bucket, of the object that a path stands for."""
    text = os.path.abspath(path)
    marker = f"/{FOLDER}/"
    if marker not in text:
        return None
    scheme, _, key = text.partition(marker)[2].partition("/")
    return None if not key or any(part.startswith(".") for part in key.split("/")) else (scheme, key)


@cache
def _filesystem(scheme: str, bucket: str) -> "fs.FileSystem":
    """The bucket's storage. Its host, region and credentials come from the environment, as the libraries take them."""
    from emo_ray.arrow_s3 import patient  # most paths lie in no bucket, and a job says its settings without pyarrow

    return tried(lambda: patient(f"{scheme}://{bucket}"), f"{scheme}://{bucket}")


def _info(place: tuple[str, str]) -> "fs.FileInfo":
    scheme, key = place
    return tried(lambda: _filesystem(scheme, key.split("/")[0]).get_file_info(key), key)


def _differs(path: Path, size: int, time_s: float) -> bool:
    status = path.stat()
    return status.st_size != size or abs(status.st_mtime - time_s) > 1


def _download(path: Path, place: tuple[str, str], size: int, time_s: float) -> None:
    """Put an object's content where its file belongs, whole and with the object's time."""
    scheme, key = place
    filesystem = _filesystem(scheme, key.split("/")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")

    def copy() -> None:
        with filesystem.open_input_stream(key) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        if temporary.stat().st_size != size:
            raise OSError(f"{temporary.stat().st_size} of {size} bytes arrived")

    try:
        tried(copy, path)
        os.utime(temporary, (time_s, time_s))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def tried(work: Callable[[], Result], source: object) -> Result:
    """What requests give, which are made again where they fail. Raises FileNotFoundError, and else OSError with EIO."""
    waits_s: Iterable[float | None] = (*_WAITS_S, None)
    for wait_s in waits_s:
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = " ".join(str(error).split())
            if getattr(error, "errno", None) is not None:  # of this machine's disk
                raise
            if wait_s is None or any(word in reason for word in _LASTING):
                raise OSError(errno.EIO, f"the bucket did not answer: {reason}", str(source)) from error
            time.sleep(wait_s * random.uniform(0.5, 1.0))
    raise AssertionError("the last try returns or raises")
