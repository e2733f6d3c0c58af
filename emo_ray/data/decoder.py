"""Decoding in a child process: a clip on which FFmpeg crashes, hangs or eats the memory costs that clip alone.

Every process has one child, started for its first clip. It serves one clip after the other, limits its own time and
memory, and ends with the process that started it. A clip that ends the child is a row with a status; the next clip
gets a new child.
"""

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import psutil

from emo_ray import trouble
from emo_ray.data import status

WAIT_FACTOR = 5  # how much longer than it may compute a clip may wait: storage can be slow, but not for ever
# What ends a process that went wrong by itself. Any other signal comes from outside and tells nothing about the clip.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
_MEMORY_LIMIT, _NO_SIGNAL = 0, -1  # no signal has these numbers
_LOOK_S = 0.05  # how often the child's memory is looked at
_PIPE_BYTES = 2**20  # most of a clip's frames at once; 64 KiB by default, which costs a small clip a tenth more
_READY = b"ready"
# One thread, for parallelism is over clips: those that look for faces would wait for each other, busily.
_START = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:] = {path!r}
from emo_ray.data.decoder import serve
serve()
"""

Answer = tuple[np.ndarray | None, str]  # what the functions of `media` return: values or None, and a status

_lock = threading.Lock()  # requests and answers take turns on the pipes
_child: subprocess.Popen | None = None


def decode(read: Callable[..., Answer], source: str | None, *args: Any, max_s: float, max_memory_mb: int) -> Answer:
    """`read(source, *args)`, a function of `media`, as the child process answers it.

    `max_s` limits the CPU seconds, and WAIT_FACTOR times as many seconds of waiting; `max_memory_mb` the mebibytes in
    the child's memory. A clip that passes the limit of CPU time or memory, or on which FFmpeg crashes twice, is None
    with a status "corrupt: why". Raises PlaceTrouble where the storage, the network or this machine is at fault: it
    gives no bytes in time, has no memory left, starts no child, or ends one from outside.
    """
    if source is None:
        return None, status.MISSING
    request = pickle.dumps((read, (source, *args), max_s))
    with _lock:
        answer, ending = _ask(request, max_memory_mb)
        if answer is None and ending in _CRASHES:  # the cause may be what an earlier clip left behind: ask a new child
            answer, ending = _ask(request, max_memory_mb)
    if answer is not None:
        return answer
    if ending == signal.SIGPROF:
        return None, f"corrupt: not decoded within media.max_decode_s={max_s:g} s"
    if ending == _MEMORY_LIMIT:
        return None, f"corrupt: not decoded within media.max_memory_mb={max_memory_mb} MiB"
    if ending in _CRASHES and trouble.has_room():
        return None, f"corrupt: the decoder crashed ({signal.Signals(ending).name})"
    if ending == signal.SIGALRM:
        raise _no_fault(source, f"nothing read within {WAIT_FACTOR} x media.max_decode_s={max_s:g} s")
    if ending == _NO_SIGNAL:  # its traceback is on standard error
        raise RuntimeError(f"{source}: the process that decodes it ended by itself")
    raise _no_fault(source, f"the process that decodes it was ended by {signal.Signals(ending).name}")


def _no_fault(source: object, reason: str) -> trouble.PlaceTrouble:
    return trouble.PlaceTrouble({str(source): reason})


def _ask(request: bytes, max_memory_mb: int) -> tuple[Answer | None, int]:
    """The child's answer, and 0; or None, and the signal that ended the child (_NO_SIGNAL: none), or _MEMORY_LIMIT.

    Raises PlaceTrouble where the child met it.
    """
    global _child
    child = _child or _start()
    assert child.stdin is not None
    assert child.stdout is not None
    _child = None  # for the case that Ctrl-C interrupts what follows: its late answer would pass for another clip's
    is_small = True
    try:
        child.stdin.write(request)
        child.stdin.flush()
        # Not RLIMIT_DATA: FFmpeg takes a failed allocation for an unreadable packet and goes on without its frame.
        while is_small and not select.select([child.stdout], [], [], _LOOK_S)[0]:
            is_small = _memory_mb(child.pid) <= max_memory_mb
        if is_small:
            answer = pickle.load(child.stdout)
            _child = child
            if isinstance(answer, trouble.PlaceTrouble):
                raise answer
            return answer, 0
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # the child ended before or within its answer
        pass
    if not is_small:
        child.kill()
    ending = _close(child)
    return None, ending if is_small else _MEMORY_LIMIT


def _close(child: subprocess.Popen) -> int:
    """Close the pipes, which ends the child; the signal that ended it, or _NO_SIGNAL where none did."""
    for pipe in (child.stdin, child.stdout):
        with suppress(BrokenPipeError):  # a request that nobody reads any more
            if pipe is not None:
                pipe.close()
    status = child.wait()
    return -status if status < 0 else _NO_SIGNAL


@atexit.register
def _close_last() -> None:
    if _child is not None:
        _close(_child)


def _start() -> subprocess.Popen:
    """A child that is ready. Raises PlaceTrouble where it cannot start: no clip is to blame for that."""
    command = [sys.executable, "-c", _START.format(path=sys.path)]
    # A session of its own: Ctrl-C reaches this process alone; when it ends, its pipes close, and that ends the child.
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES, start_new_session=True
        )
    except (OSError, MemoryError) as error:
        raise _no_fault("the process that decodes", f"it could not start: {trouble.reason(error)}") from error
    assert child.stdout is not None
    if child.stdout.read(len(_READY)) != _READY:
        raise _no_fault("the process that decodes", f"it could not start (exit status {_close(child)})")
    return child


def serve() -> None:
    """The child: answer requests from standard input on standard output until standard input ends."""
    requests, answers = _take_over(0, "rb", os.devnull), _take_over(1, "wb", 2)
    answers.write(_READY)
    answers.flush()
    while True:
        try:
            read, args, max_s = pickle.load(requests)
        except EOFError:
            return
        _limit_seconds(max_s)
        answer: Answer | trouble.PlaceTrouble
        try:
            answer = read(*args)
        except trouble.PlaceTrouble as met:
            answer = met
        except MemoryError as error:
            answer = _no_fault(args[0], trouble.reason(error))
        _limit_seconds(0)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _take_over(descriptor: int, mode: str, replacement: str | int) -> BinaryIO:
    """A standard stream of this process, which gets another in its place: a stray print cannot spoil an answer."""
    stream: Any = os.fdopen(os.dup(descriptor), mode)
    other = os.open(replacement, os.O_RDONLY) if isinstance(replacement, str) else replacement
    os.dup2(other, descriptor)
    return stream


def _limit_seconds(max_s: float) -> None:
    """End this process when it has used so many more CPU seconds, or waited WAIT_FACTOR times as long; 0: no limit."""
    # The default action of both signals ends a process in the midst of C code, where no handler of Python would run.
    signal.setitimer(signal.ITIMER_PROF, max_s)
    signal.setitimer(signal.ITIMER_REAL, WAIT_FACTOR * max_s)


def _memory_mb(pid: int) -> float:
    """The mebibytes of a process that are in memory; 0 where it has ended."""
    try:
        return psutil.Process(pid).memory_info().rss / 2**20
    except psutil.Error:
        return 0.0
