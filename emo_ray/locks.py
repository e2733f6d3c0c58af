"""Locks between processes of all machines that share a store: files that one process at a time holds."""

import errno
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

_QUIET_WAIT_S = 5.0  # for a lock, before its holder is named
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
