"""Why a job ended early, as one or two lines for its user: the cause, what is kept, and how to go on.

Signals become exceptions here. What is neither a signal, nor a ValueError, nor trouble of the machine is a bug, and
wants its traceback.
"""

import errno
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

USER_ERROR = 2  # exit status of what the user can mend
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP, a closed terminal"}
_LONGEST_DETAIL = 300  # characters of a library's message


@dataclass(frozen=True)
class Failure:
    """What is printed of a failure, and the exit status of the job."""

    message: str
    status: int = USER_ERROR


@dataclass(frozen=True)
class Trouble:
    """A kind of trouble of the machine, recognised by errno, by the name of an exception, or by a library's words."""

    cause: str
    advice: str
    numbers: frozenset[int]
    words: re.Pattern[str]


_TROUBLES = (
    Trouble(
        "no space is left to write to",
        "make room, or name another store.root",
        frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
        re.compile(
            r"No space left|os error (28|27|122)\b|disk is full|quota exceeded|File too large|OutOfDisk|"
            r"inline_container.*unexpected pos",  # of torch, whose file ends before it should
            re.I,
        ),
    ),
    Trouble(
        "no memory is left",
        "give it more, or run fewer processes at once with cluster.num_cpus, or lower the batch size",
        frozenset({errno.ENOMEM}),
        re.compile(
            r"MemoryError|OutOfMemory|out of memory|(cannot|can't|failed to|unable to) allocate|bad_alloc|"
            r"ObjectStoreFull|running low on memory|due to memory pressure",
            re.I,
        ),
    ),
    Trouble(
        "a file or folder cannot be written or read",
        "grant access, or name another store.root",
        frozenset({errno.EACCES, errno.EPERM, errno.EROFS}),
        re.compile(r"Read-only file system|Permission denied|os error (13|30)\b|readonly database", re.I),
    ),
    Trouble(
        "too many files are open",
        "raise the limit with `ulimit -n`",
        frozenset({errno.EMFILE, errno.ENFILE}),
        re.compile(r"Too many open files", re.I),
    ),
    Trouble(
        "the storage failed",
        "see to its disk or network",
        frozenset({errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ETIMEDOUT}),
        re.compile(r"Input/output error|Stale file handle|disk I/O error|Transport endpoint is not", re.I),
    ),
    Trouble(
        "Ray's processes on this machine have died",
        "see whether something killed them, or memory ran out",
        frozenset(),
        re.compile(r"LocalRayletDied|RaySystemError|NodeDied|OwnerDied|RpcError|GCS"),
    ),
)


class Stopped(BaseException):
    """A signal that asks the process to end, but for Ctrl-C, which is KeyboardInterrupt."""


_received: list[signal.Signals] = []  # the signal that stops this process, once it has come


def catch_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP exceptions, unless they are ignored. A second signal ends the process at once."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_DFL)
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped


def failure_of(error: BaseException, root: Path | None) -> Failure | None:
    """What to print of an error, where `root` is the store, if that is known already; None for a bug."""
    from emo_ray.store import DamagedFile  # its module needs pyarrow, which --help does without

    kept = f"what is finished is kept in {root}" if root is not None else "what is finished is kept"
    if _received or isinstance(error, KeyboardInterrupt):  # whatever else was raised on the way
        number = _received[0] if _received else signal.SIGINT
        return Failure(f"stopped by {_SIGNALS[number]}: {kept}, and the same command goes on there", 128 + number)
    chain = list(causes(error))
    # Exactly ValueError or our own: libraries derive theirs from it, and those are bugs that want their traceback.
    if (message := next((str(cause) for cause in chain if type(cause) in (ValueError, DamagedFile)), None)) is not None:
        return Failure(f"error: {message}")
    for trouble in _TROUBLES:
        if (cause := next((cause for cause in chain if _is_of(cause, trouble)), None)) is not None:
            if root is not None and root.exists():
                return Failure(
                    f"error: {trouble.cause}: {_detail(cause, trouble)}\n{kept}: {trouble.advice}, and run it again"
                )
            return Failure(f"error: {trouble.cause}: {_detail(cause, trouble)}: {trouble.advice}")
    return _deletion(chain, root)


def _deletion(causes: list[BaseException], root: Path | None) -> Failure | None:
    """The failure of a job whose store, or a part of it, somebody deleted; None for any other."""
    if root is None:
        return None
    expected = "expected the store to stay while a job runs: run it again"
    if not root.exists():
        return Failure(f"error: store.root: found that {root} is gone, {expected}")
    gone = re.compile(rf"({re.escape(str(root))}[^'\"\s]*)")
    for cause in causes:
        is_absent = isinstance(cause, FileNotFoundError) or "No such file or directory" in str(cause)
        if is_absent and (path := gone.search(str(cause))):
            return Failure(f"error: found that {path[1]} is gone, {expected}")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what Ray's workers raised in its place, and its causes, the outermost first."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        workers = list((getattr(current, "worker_failures", None) or {}).values())  # of Ray Train: one per rank
        further = [*workers, getattr(current, "cause", None), current.__cause__, current.__context__]
        waiting += [cause for cause in further if isinstance(cause, BaseException)]


def _is_of(error: BaseException, trouble: Trouble) -> bool:
    number = getattr(error, "errno", None)
    text = f"{type(error).__name__}: {error}"
    return number in trouble.numbers or bool(trouble.words.search(text[-20_000:]))


def _detail(error: BaseException, trouble: Trouble) -> str:
    """A library's message in one line: of a trace that Ray passes on as text, the last that tells of the trouble."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if trouble.words.search(line)]
    return [type(error).__name__, *lines[-1:], *telling[-1:]][-1][:_LONGEST_DETAIL]
