"""Trouble of the place where a job runs, as opposed to faulty content: storage, network, memory, limits, rights.

Trouble may pass, so it is tried again for a while and is never stored as a clip's status. Content stays as it is.
"""

import errno
import json
import mmap
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_SHOWN = 3  # sources in a message
_LONGEST_REASON = 300  # characters of a library's message
_ROOM_BYTES = 2**30  # content that asks for more at once is at fault itself
_NO_FILE = "Not a regular file"
_DELAYS = (1, 2, 4, 8)  # between tries, as shares of the patience
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind:
    """A kind of trouble, recognised by errno, by the name of an exception, or by a library's words."""

    cause: str
    advice: str
    numbers: frozenset[int]
    words: re.Pattern[str]

    def fits(self, error: BaseException) -> bool:
        """Whether an error is of this kind."""
        if getattr(error, "actor_init_failed", False) and not self.numbers:  # Ray's actor whose constructor raised
            return False
        text = f"{type(error).__name__}: {error}"
        return getattr(error, "errno", None) in self.numbers or bool(self.words.search(text[-20_000:]))

    def detail(self, error: BaseException) -> str:
        """A library's message in one line: of a trace that Ray passes on as text, the last that tells of the kind."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if self.words.search(line)]
        return [type(error).__name__, *lines[-1:], *telling[-1:]][-1][:_LONGEST_REASON]


KINDS = (
    Kind(
        "no space is left to write to",
        "make room, or name another store.root",
        frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
        re.compile(
            r"No space left|os error (28|27|122)\b|disk is full|quota exceeded|File too large|OutOfDisk|"
            r"inline_container.*unexpected pos",  # of torch, whose file ends before it should
            re.I,
        ),
    ),
    Kind(
        "no memory is left",
        "give it more, or run fewer processes at once with cluster.num_cpus, or lower the batch size",
        frozenset({errno.ENOMEM}),
        re.compile(
            r"MemoryError|OutOfMemory|out of memory|(cannot|can't|failed to|unable to) allocate|bad_alloc|"
            r"ObjectStoreFull|running low on memory|due to memory pressure|can't start new thread|"
            r"failed to map segment",  # of a library that is loaded
            re.I,
        ),
    ),
    Kind(
        "a file or folder cannot be written or read",
        "grant access, or name another store.root",
        frozenset({errno.EACCES, errno.EPERM, errno.EROFS}),
        re.compile(r"Read-only file system|Permission denied|os error (13|30)\b|readonly database", re.I),
    ),
    Kind(
        "too many files are open",
        "raise the limit with `ulimit -n`",
        frozenset({errno.EMFILE, errno.ENFILE}),
        re.compile(r"Too many open files", re.I),
    ),
    Kind(
        "the storage failed",
        "see to its disk or network",
        frozenset({errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ETIMEDOUT}),
        re.compile(
            r"bucket did not answer|Input/output error|Stale file handle|disk I/O error|Transport endpoint is not", re.I
        ),
    ),
    Kind(
        "the network failed",
        "see to it",
        frozenset(
            {
                *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
                *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
            }
        ),
        re.compile(r"Network is (unreachable|down)|No route to host|Temporary failure in name resolution", re.I),
    ),
    Kind(
        "Ray's processes on this machine have died",
        "see whether something killed them, or memory ran out",
        frozenset(),
        re.compile(r"LocalRayletDied|RaySystemError|NodeDied|OwnerDied|RpcError|GCS"),
    ),
    Kind(
        "a worker process has died",
        "give it more memory, or run fewer at once with cluster.num_cpus",
        frozenset(),
        re.compile(r"WorkerCrashedError|ActorDiedError|ActorUnavailableError|BrokenProcessPool"),
    ),
)
_NUMBERS = frozenset.union(*(kind.numbers for kind in KINDS)) - {errno.ENOMEM, errno.EFBIG}


class PlaceTrouble(Exception):
    """Sources that could not be read though nothing is wrong with their content: reasons by path or address.

    It may cross processes.
    """

    def __init__(self, reasons: Mapping[str, str]):
        super().__init__(dict(reasons))
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        count = len(self.reasons)
        shown = [f"  {_bare(source)}: {text[:_LONGEST_REASON]}" for source, text in list(self.reasons.items())[:_SHOWN]]
        more = [f"  and {count - _SHOWN} more"] if count > _SHOWN else []
        first = f"found media or feature tables that storage, network or this machine did not let be read ({count}):"
        last = (
            "expected to read them: nothing is stored of the parts that they belong to, and all others are kept; see "
            "to the reasons, and run the same command again"
        )
        return "\n".join([first, *shown, *more, last])


def _bare(source: str) -> str:
    """An address without its query and the part before @, which may hold a secret; a path as it is."""
    return re.sub(r"//[^/]*@", "//", source.partition("?")[0]) if "://" in source else source


def is_of_place(error: BaseException) -> bool:
    """Whether an error of reading a source comes from the place, not from what the source holds.

    Where memory lacks, that is so unless there is room for any reasonable content.
    """
    if isinstance(error, MemoryError):
        return not has_room()
    number = getattr(error, "errno", None)
    return number in _NUMBERS or (number == errno.ENOMEM and not has_room())


def has_no_setting_to_blame(error: BaseException) -> bool:
    """Whether an error that ended a part of a job is trouble of the place that no setting of that part can cause.

    Too little memory, and a process that dies of it, may be caused by a batch size.
    """
    kinds = [kind for kind in KINDS if kind.numbers and errno.ENOMEM not in kind.numbers]
    return isinstance(error, PlaceTrouble) or any(kind.fits(error) for kind in kinds)


def has_room() -> bool:
    """Whether this process may still take as much memory as any reasonable content asks for at once."""
    try:
        mmap.mmap(-1, _ROOM_BYTES).close()  # nothing is written to it: it costs no memory
    except (OSError, MemoryError):
        return False
    return True


def raise_of_place(error: BaseException, source: object) -> None:
    """Raise PlaceTrouble where an error of reading this source, a path or an address, is one of the place.

    Arrow's errors of buckets have no number. What is no file in them is told by FileNotFoundError, or by its words.
    """
    if isinstance(error, PlaceTrouble):
        raise error
    is_of_bucket = "://" in str(source) and isinstance(error, OSError) and error.errno is None
    if is_of_place(error) or (is_of_bucket and not isinstance(error, FileNotFoundError) and _NO_FILE not in str(error)):
        raise PlaceTrouble({str(source): reason(error)}) from error


def reason(error: BaseException) -> str:
    """An error in one line."""
    words = getattr(error, "strerror", None) or " ".join(str(error).split())
    return words or type(error).__name__


def delays_s(patience_s: float) -> Iterator[float]:
    """Seconds to wait between tries: doubling, jittered so that processes come apart, `patience_s` in all at most."""
    if patience_s > 0:
        for share in _DELAYS:
            yield patience_s * share / sum(_DELAYS) * random.uniform(0.5, 1)


def in_rounds(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    patience_s: float,
    wait: Callable[[float], object] = time.sleep,
) -> list[Result]:
    """`work` over items, in their order. Those that meet PlaceTrouble are tried again, with waits in between.

    Raises PlaceTrouble with all that is left after the last wait, or once `patience_s` have passed since the first
    trouble; each item is tried once at least, unless a single try takes longer than that.
    """
    results: dict[int, Result] = {}
    delays = delays_s(patience_s)
    places = list(range(len(items)))
    first_s: float | None = None  # a time of time.monotonic
    while True:
        reasons: dict[int, dict[str, str]] = {}
        for place in places:
            begun_s = time.monotonic()
            try:
                results[place] = work(items[place])
            except PlaceTrouble as trouble:
                first_s = begun_s if first_s is None else first_s
                reasons[place] = trouble.reasons
                if time.monotonic() - first_s > max(patience_s, 1.0):
                    break
        if not reasons:
            return [results[place] for place in range(len(items))]
        delay_s = next(delays, None)
        if delay_s is None or (first_s is not None and time.monotonic() - first_s > patience_s):
            raise PlaceTrouble({source: reason for of_item in reasons.values() for source, reason in of_item.items()})
        wait(delay_s)
        places = [place for place in places if place not in results]


def unread(work: Callable[[], object]) -> str:
    """The sources that `work` could not read, with reasons, as JSON for a cell of a table; "" where it is done."""
    try:
        work()
    except PlaceTrouble as trouble:
        return json.dumps(trouble.reasons)
    return ""


def check_read(answers: Iterable[str]) -> None:
    """Raise PlaceTrouble where any of these answers of `unread`, one of each part of the work, names a source.

    All answers are taken first, so that the other parts are done.
    """
    reasons = {source: reason for answer in answers if answer for source, reason in json.loads(answer).items()}
    if reasons:
        raise PlaceTrouble(dict(sorted(reasons.items())))
