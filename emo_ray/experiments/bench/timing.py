"""How speed is measured: several ways take turns in one run, because a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil

from emo_ray.progress import repeated

Way = TypeVar("Way", bound=Hashable)


@dataclass(frozen=True)
class Figure:
    """What one way of doing one thing costs. None: not measured."""

    part: str
    what: str
    clips_per_s: float
    cpu_s_per_clip: float | None = None
    bytes_per_clip: float | None = None
    peak_bytes: float | None = None  # of memory
    waited: float | None = None  # share of a training run spent waiting for data
    utilisation: float | None = None  # model FLOP/s as a share of what a large matrix product reaches here
    seconds: float | None = None  # of a whole command


@dataclass(frozen=True)
class Comparison:
    """How many times faster one way is than another: the median over rounds, and the lowest and highest."""

    part: str
    what: str
    ratio: float
    low: float
    high: float
    at_least: float


@dataclass
class Usage:
    """The resources that a block of code used, together with all processes under this one."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: float = 0.0  # of memory, shared pages counted once


Measured = tuple[list[Figure], list[Comparison]]
ProcessKey = tuple[int, float]  # (pid, start time), because pids are reused
_MEMORY_SHARE = 0.01  # of the time goes to sampling memory; four times a second, it took 40 % of a core


def rounds(
    ways: Mapping[Way, Callable[[], float]],
    count: int,
    on_done: Callable[[float], None] = lambda runs: None,
    warm_up: bool = True,
) -> dict[Way, list[float]]:
    """Run every way once in each of `count` rounds and return the seconds of each way, round by round.

    A way is a function that works and returns the seconds that count. Each round starts with another way. With
    `warm_up`, an additional first round is not counted. `on_done(1)` is called after each run.
    """
    names = list(ways)
    seconds: dict[Way, list[float]] = {name: [] for name in names}
    for turn in range(0 if warm_up else 1, count + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took_s = ways[name]()
            if turn:
                seconds[name].append(took_s)
            on_done(1)
    return seconds


def timed(
    way: Callable[[], object], cpu_s: dict[str, float], name: str, synchronise: Callable[[], None] = lambda: None
) -> float:
    """Call a function and return the seconds it took; add this process's CPU seconds to `cpu_s[name]`.

    `synchronise` returns when the device has finished all work that it was given.
    """
    synchronise()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    way()
    synchronise()
    cpu_s[name] += time.process_time() - begun_cpu_s
    return time.perf_counter() - begun_s


def compared(part: str, what: str, slow_s: Sequence[float], fast_s: Sequence[float], at_least: float) -> Comparison:
    """Compare the seconds of two ways round by round; a ratio of 2 says that the second way is twice as fast."""
    ratios = [slow / fast for slow, fast in zip(slow_s, fast_s, strict=True)]
    return Comparison(part, what, median(ratios), min(ratios), max(ratios), at_least)


@contextmanager
def usage(interval_s: float = 0.5) -> Iterator[Usage]:
    """Measure time, CPU time and memory of a block by sampling this process and all that it started.

    CPU time after the last sample of a process that ends is lost, because nobody reports it afterwards. Memory is
    sampled for a hundredth of the time at most: to count shared pages once, the kernel walks all pages of each process.
    """
    used = Usage()
    root = psutil.Process()
    before = _cpu_seconds(root)
    last: dict[ProcessKey, float] = {}
    memory_due_s = time.perf_counter()

    def sample_memory() -> None:
        nonlocal memory_due_s
        begun_s = time.perf_counter()
        used.peak_bytes = max(used.peak_bytes, _memory_bytes(root))
        ended_s = time.perf_counter()
        memory_due_s = ended_s + (ended_s - begun_s) / _MEMORY_SHARE

    def sample() -> None:
        last.update(_cpu_seconds(root))
        if time.perf_counter() >= memory_due_s:
            sample_memory()

    with repeated(sample, interval_s):
        begun_s = time.perf_counter()
        yield used
        used.wall_s = time.perf_counter() - begun_s
    last.update(_cpu_seconds(root))
    sample_memory()
    used.cpu_s = sum(cpu_s - before.get(process, 0.0) for process, cpu_s in last.items())


def high_water_bytes(pid: int) -> int:
    """The most memory that a process has taken so far, by Linux's own count; 0 of one that has ended.

    Not what `os.wait4` says: that counts the memory of the process that started it, too.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _process_tree(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _cpu_seconds(root: psutil.Process) -> dict[ProcessKey, float]:
    """CPU seconds of each process in the tree."""
    seconds: dict[ProcessKey, float] = {}
    for process in _process_tree(root):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid, process.create_time()] = times.user + times.system
    return seconds


def _memory_bytes(root: psutil.Process) -> float:
    total = 0.0
    for process in _process_tree(root):
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)  # without PSS (macOS): what is not shared
    return total
