"""Locks between processes of all machines that share a store: files that one process at a time holds.

Of a store in a bucket, such a file is one machine's. Machines exclude each other by claims: objects with a name of
their own beside the file's. Whoever has written his claim and then sees no other holds the lock, for whoever claims
later sees his. This takes listings that show every object which was written before, as those of S3 and gs do.
"""

import errno
import math
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from emo_ray import bucket

_QUIET_WAIT_S = 5.0  # for a lock, before its holder is named
_LEASE_S = 60.0  # a claim that is not renewed for so long is that of a dead process
_RENEWAL_S = _LEASE_S / 4
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # what a file system without locks says


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
        stack.enter_context(_claimed(path, timeout_s))
        yield is_locked


def _acquire(stack: ExitStack, path: Path, timeout_s: float) -> None:
    """Acquire the lock for as long as the stack is open, and say whenever another process than before has it."""
    begun_s = time.monotonic()
    announced = ""
    while True:
        left_s = math.inf if timeout_s < 0 else timeout_s - (time.monotonic() - begun_s)
        try:
            lock_file = filelock.FileLock(path, timeout=max(0.0, min(_QUIET_WAIT_S, left_s)), poll_interval=0.1)
            stack.enter_context(lock_file)
            return
        except filelock.Timeout:
            if left_s <= _QUIET_WAIT_S:
                raise TimeoutError(f"{path}: found another holder for {timeout_s:g} s") from None
        announced = _say(path, _holder(path), announced)


def _say(path: Path, holder: str, announced: str) -> str:
    """Say who holds a lock, unless that was `announced` last; returns what is announced now."""
    if holder != announced:
        print(f"waiting for {holder}: it holds {path} until it ends", file=sys.stderr, flush=True)
    return holder


@contextmanager
def _claimed(path: Path, timeout_s: float) -> Iterator[None]:
    """Let one machine at a time hold a lock file of a store in a bucket, which is locked on this machine already.

    The claim is renewed while the block runs. One that does not change for `_LEASE_S`, by the clock of whoever waits,
    counts no more. Raises TimeoutError.
    """
    claims = path.with_name(f"{path.name.lstrip('.')}.claims")
    if (folder := bucket.folder_of_buckets(claims)) is None:
        yield
        return
    note = _machine_note(folder)
    claim = claims / f"{socket.gethostname()}-{note.read_text('utf-8')}"
    begun_s = time.monotonic()
    announced = ""
    changes: dict[str, tuple[float, float]] = {}
    while True:
        bucket.send(note, claim)
        others = _living(claims, changes) - {claim.name}
        if not others:
            break
        bucket.remove(claim)
        waited_s = time.monotonic() - begun_s
        if 0 <= timeout_s <= waited_s:
            raise TimeoutError(f"{path}: found another holder for {timeout_s:g} s")
        if waited_s > _QUIET_WAIT_S:
            announced = _say(path, f"a process on {min(others).rpartition('-')[0]}", announced)
        time.sleep(random.uniform(0.5, 2.0))
    is_done = threading.Event()
    renewal = threading.Thread(target=_renew, args=(note, claim, is_done), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        is_done.set()
        renewal.join()
        bucket.remove(claim)


def _living(claims: Path, changes: dict[str, tuple[float, float]]) -> set[str]:
    """The claims that changed within a lease; `changes`: time in the bucket, and when it was seen first, by name."""
    now_s = time.monotonic()
    for name, (_, time_s) in (listed := bucket.files(claims)).items():
        if name not in changes or changes[name][0] != time_s:
            changes[name] = time_s, now_s
    return {name for name in listed if now_s - changes[name][1] <= _LEASE_S}


def _renew(note: Path, claim: Path, is_done: threading.Event) -> None:
    while not is_done.wait(_RENEWAL_S):
        with suppress(OSError):  # the next renewal may succeed
            bucket.send(note, claim)


def _machine_note(folder: Path) -> Path:
    """A file with a name that a folder of buckets draws once, by which machines of equal host names are told apart."""
    note = folder / ".machine"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        temporary.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        with suppress(FileExistsError):  # another process was first
            os.link(temporary, note)
        temporary.unlink()
    return note


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
