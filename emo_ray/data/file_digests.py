"""Digests of files by content, of many at once: by them media and feature files are told from others of their name."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from emo_ray.config.data_settings import Scope

_STRETCH_BYTES = 16 * 2**10
_BLOCK_BYTES = 2**20
_THREADS = 32  # most of them wait for storage
_AT_ONCE_S = 0.005  # of reading in this thread first: a few files on a disk take less than threads take to start
_MOST_AT_ONCE = 32  # files of one thread: handing over costs as much as reading

Item = TypeVar("Item")
Result = TypeVar("Result")


def file_digest(path: str | os.PathLike[str], scope: Scope) -> tuple[int, str | None]:
    """Size and digest of a file's content.

    `sample` digests 16 KiB each at the head, in the middle and at the tail, `content` the whole file. What is no
    regular file, such as a pipe, is not opened: its digest is None. Raises OSError where a file cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return status.st_size, None
    hasher = hashlib.blake2b(digest_size=16, person=scope.encode())
    with open(path, "rb", buffering=0) as stream:
        if scope == "content" or status.st_size <= 3 * _STRETCH_BYTES:
            while block := stream.read(_BLOCK_BYTES):
                hasher.update(block)
        else:
            for start in (0, (status.st_size - _STRETCH_BYTES) // 2, status.st_size - _STRETCH_BYTES):
                hasher.update(os.pread(stream.fileno(), _STRETCH_BYTES, start))
    return status.st_size, hasher.hexdigest()


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], report: Callable[[int, int], None] = lambda done, total: None
) -> list[Result]:
    """The result of `work` for each file, in order: in this thread for the first few milliseconds, then in many.

    `report` is called now and then with the number of files that are done, and that of all.
    """
    results: list[Result] = []
    until_s = time.monotonic() + _AT_ONCE_S
    while len(results) < len(items) and time.monotonic() < until_s:
        results.append(work(items[len(results)]))
    report(len(results), len(items))
    if len(results) == len(items):
        return results
    left = items[len(results) :]
    size = min(_MOST_AT_ONCE, -(-len(left) // _THREADS))
    chunks = [left[i : i + size] for i in range(0, len(left), size)]
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for chunk in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            results += chunk
            report(len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the files that are left
    return results
