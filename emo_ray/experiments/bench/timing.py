"""How speed is measured: several ways side by side in one run, since a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from threading import Event, Thread

import psutil


@dataclass
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


@dataclass
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
    """What a block of code took, with all processes under this one."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: float = 0.0  # of memory, shared pages counted once


def rounds(
    ways: Mapping[str, Callable[[], float]],
    count: int,
    done: Callable[[float], None] = lambda runs: None,
    warm_up: bool = True,
) -> dict:
    """`{way: its seconds in each of count rounds}`, after one that does not count; every round another way begins.

    A way is a function that does its work and returns the seconds that count.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(0 if warm_up else 1, count + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took_s = ways[name]()
            if turn:
                seconds[name].append(took_s)
            done(1)
    return seconds


def timed(
    way: Callable[[], object], cpu_s: dict[str, float], name: str, wait: Callable[[], None] = lambda: None
) -> float:
    """Seconds of one call; this process's CPU seconds are added to `cpu_s[name]`.

    `wait` returns when the device has done all it was asked to.
    """
    wait()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    way()
    wait()
    cpu_s[name] += time.process_time() - begun_cpu_s
    return time.perf_counter() - begun_s


def compared(part: str, what: str, slow_s: Sequence[float], fast_s: Sequence[float], at_least: float) -> Comparison:
    """How much faster the second way is, round by round."""
    ratios = [slow / fast for slow, fast in zip(slow_s, fast_s, strict=True)]
    return Comparison(part, what, median(ratios), min(ratios), max(ratios), at_least)


@contextmanager
def usage(interval_s: float = 0.25) -> Iterator[Usage]:
    """Time, CPU time and memory of a block, sampled over this process and all that it has started.

    A process that ends counts up to its last sample, since nobody tells of it afterwards.
    """
    used, stop, root = Usage(), Event(), psutil.Process()
    before, last = _cpu_seconds(root), {}

    def sample() -> None:
        last.update(_cpu_seconds(root))
        used.peak_bytes = max(used.peak_bytes, _memory_bytes(root))

    def follow() -> None:
        while not stop.wait(interval_s):
            sample()

    thread, begun_s = Thread(target=follow, daemon=True), time.perf_counter()
    thread.start()
    try:
        yield used
    finally:
        used.wall_s = time.perf_counter() - begun_s
        stop.set()
        thread.join()
        sample()
        used.cpu_s = sum(cpu_s - before.get(process, 0.0) for process, cpu_s in last.items())


def _tree(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _cpu_seconds(root: psutil.Process) -> dict[tuple[int, float], float]:
    """Of each process in the tree; numbers are used again, so a process is its number and its start."""
    seconds = {}
    for process in _tree(root):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid, process.create_time()] = times.user + times.system
    return seconds


def _memory_bytes(root: psutil.Process) -> float:
    total = 0.0
    for process in _tree(root):
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)  # where there is no PSS (macOS), what is not shared
    return total
