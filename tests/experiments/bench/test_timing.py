"""Ways take fair turns, ratios are taken within rounds, and CPU time of child processes counts."""

import multiprocessing
import os
import subprocess
import sys
import time
from itertools import cycle

import pytest

from emo_ray.experiments.bench.timing import compared, high_water_bytes, rounds, usage


def test_every_way_runs_once_a_round_and_each_begins_in_its_turn():
    calls, reported = [], []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    seconds = rounds(ways, 3, reported.append)
    assert ["".join(calls[i : i + 3]) for i in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]
    assert seconds == {"a": [6, 8, 10], "b": [4, 9, 11], "c": [5, 7, 12]}  # the first round does not count
    assert sum(reported) == len(calls)


def test_without_warming_up_every_call_counts():
    clock = cycle([3.0])
    assert rounds({"a": lambda: next(clock)}, 2, warm_up=False) == {"a": [3.0, 3.0]}


def test_a_ratio_is_taken_within_rounds():
    # In the second round the machine is ten times slower, which slows both ways.
    comparison = compared("step", "x", slow_s=[2, 20, 3], fast_s=[1, 10, 2], at_least=1.5)
    assert (comparison.ratio, comparison.low, comparison.high) == (2, 1.5, 2)
    with pytest.raises(ValueError, match="zip"):
        compared("step", "x", [1, 2], [1], 1)


def burn(cpu_s):
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass


def test_cpu_time_of_child_processes_counts():
    with usage(interval_s=0.02) as used:
        burn(0.2)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(burn, (1.0,))
    assert 1.1 <= used.cpu_s < 20  # the child has ended; its last sample is at most a little old
    assert used.wall_s >= 1.1
    assert used.peak_bytes > 20e6


def test_the_memory_of_a_process_is_its_own_and_what_it_gave_back_counts():
    mebibyte = 2**20
    code = "import sys\nlargest = b'x' * (80 << 20)\ndel largest\nprint(flush=True)\nsys.stdin.read()"
    kept = b"x" * (200 * mebibyte)  # of this process, whose memory `wait4` would count
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        peak_bytes = high_water_bytes(child.pid)
        child.stdin.close()
    assert 80 * mebibyte < peak_bytes < 150 * mebibyte
    assert high_water_bytes(os.getpid()) > len(kept)
    assert high_water_bytes(child.pid) == 0  # it has ended
