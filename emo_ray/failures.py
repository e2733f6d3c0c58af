"""Why a job ended early, as one or two lines for its user: the cause, what is kept, and how to go on.

Signals become exceptions here. What is neither a signal, nor a ValueError, nor trouble of the machine is a bug, and
wants its traceback.
"""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from emo_ray import trouble
from emo_ray.store import DamagedFile

USER_ERROR = 2  # exit status of what the user can mend
SIGNALLED = 128  # plus the signal's number: exit status of a job that a signal stopped
_STAY = "expected the store to stay while a job runs: run it again"
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP, a closed terminal"}


@dataclass(frozen=True)
class Failure:
    """What is printed of a failure, and the exit status of the job."""

    message: str
    status: int = USER_ERROR


_received: list[signal.Signals] = []  # the signal that stops this process, once it has come


def catch_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, unless they are ignored.

    Any other exception of a handler is lost where the process waits for Ray. A second signal ends the process at once.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_DFL)
    raise KeyboardInterrupt


def failure_of(error: BaseException, root: Path | None) -> Failure | None:
    """What to print of an error, where `root` is the store, if that is known already; None for a bug."""
    kept = f"what is finished is kept in {root}" if root is not None else "what is finished is kept"
    is_rays = isinstance(error, SystemExit) and error.code == signal.SIGTERM  # of the handler that ray.init sets
    if _received or is_rays or isinstance(error, KeyboardInterrupt):  # whatever else was raised on the way
        number = _received[0] if _received else signal.SIGTERM if is_rays else signal.SIGINT
        return Failure(f"stopped by {_SIGNALS[number]}: {kept}, and the same command goes on there", SIGNALLED + number)
    chain = list(causes(error))
    if (deletion := _deletion_of_media(chain, root)) is not None:
        return deletion
    # Exactly ValueError or our own: libraries derive theirs from it, and those are bugs that want their traceback.
    ours = (ValueError, DamagedFile, trouble.PlaceTrouble)
    if (message := next((str(cause) for cause in chain if type(cause) in ours), None)) is not None:
        return Failure(f"error: {message}")
    for kind in trouble.KINDS:
        if (cause := next(filter(kind.fits, chain), None)) is not None:
            text = f"error: {kind.cause}: {kind.detail(cause)}"
            is_kept = root is not None and root.exists()
            return Failure(f"{text}\n{kept}: {kind.advice}, and run it again" if is_kept else f"{text}: {kind.advice}")
    return _deletion(chain, root)


def _deletion(causes: list[BaseException], root: Path | None) -> Failure | None:
    """The failure of a job whose store, or a part of it, somebody deleted; None for any other."""
    if root is None:
        return None
    if not root.exists():
        return Failure(f"error: store.root: found that {root} is gone, {_STAY}")
    gone = re.compile(rf"({re.escape(str(root))}[^'\"\s]*)")
    for cause in causes:
        is_absent = isinstance(cause, FileNotFoundError) or "No such file or directory" in str(cause)
        if is_absent and (path := gone.search(str(cause))):
            return Failure(f"error: found that {path[1]} is gone, {_STAY}")
    return None


def _deletion_of_media(causes: list[BaseException], root: Path | None) -> Failure | None:
    """The failure of a job on media of its own store, such as the synthetic ones, that somebody deleted."""
    sources = [source for cause in causes if isinstance(cause, trouble.PlaceTrouble) for source in cause.reasons]
    for source in sources:
        if root is not None and Path(source).is_relative_to(root) and not Path(source).exists():
            return Failure(f"error: found that {source} is gone, {_STAY}")
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
