"""Real jobs in processes of their own: how they are started, stopped and waited for, and how they end."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import emo_ray
from emo_ray.experiments.chaos.faults import Unexpected, check

ROOT = Path(emo_ray.__file__).resolve().parents[1]
PATIENCE_S = 300.0  # no tiny job takes as long
_POLL_S = 0.01
# How far a stage is, what it says of its clips and results, and the next commands.
_PROGRESS = re.compile(r"[\w, -]+: \d+ (of \d+ )?\w+ (in |\()|next: |\d+ clips \(|note: |model-|EmoVCLIP ")
_CUT = 600  # characters of a job's words in an outcome


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: int  # below zero: minus the signal that ended it
    answer: str  # standard output
    words: str  # standard error
    seconds: float
    peak_mb: float  # of the memory of the job's own process

    @property
    def messages(self) -> list[str]:
        """The lines on standard error that are no progress."""
        return [line for line in self.words.splitlines() if line.strip() and not _PROGRESS.match(line)]

    @property
    def errors(self) -> list[str]:
        """The lines from the one that begins the error; all messages where none does."""
        lines = self.messages
        begin = next((i for i, line in enumerate(lines) if line.startswith(("error:", "stopped by"))), 0)
        return lines[begin:]


class Running:
    """A job that runs."""

    def __init__(self, command: Sequence[str], folder: Path, prepare: Callable[[], object] | None = None):
        self.command = list(command)
        self._answer, self._words = folder / "stdout.txt", folder / "stderr.txt"
        self.begun_s = time.monotonic()

        def begin() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs this behind may ignore it
            if prepare is not None:
                prepare()

        with self._answer.open("wb") as answer, self._words.open("wb") as words:
            # A session of its own: Ray's reaper of a killed job's processes ends their whole group.
            self.process = subprocess.Popen(
                self.command, stdout=answer, stderr=words, preexec_fn=begin, start_new_session=True, cwd=folder
            )

    def stop(self, number: signal.Signals) -> None:
        """Send the job's own process a signal. Unlike Popen's own way, this reaps nothing."""
        os.kill(self.process.pid, number)  # it is not reaped yet, so the id is its own

    def has_ended(self) -> bool:
        """Whether it is over. It is not reaped, so that `end` can tell what it used."""
        state = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return state is not None

    def words(self) -> str:
        """What it has written on standard error so far."""
        return self._words.read_text(encoding="utf-8", errors="replace")

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a moment of the job. Raises Unexpected where the job ends before it comes."""
        end_s = time.monotonic() + PATIENCE_S
        while not holds():
            if self.has_ended():
                raise Unexpected(f"it ended too early: {self.end().words[-_CUT:]}")
            if time.monotonic() > end_s:
                self.stop(signal.SIGKILL)
                raise Unexpected(f"the moment did not come in {PATIENCE_S:.0f} s")
            time.sleep(_POLL_S)

    def wait(self, seconds: float) -> None:
        """Let the job run for so long, or to its end."""
        end_s = self.begun_s + seconds
        while time.monotonic() < end_s and not self.has_ended():
            time.sleep(_POLL_S)

    def end(self) -> Ended:
        """Wait for the end. Raises Unexpected where it does not come."""
        end_s = time.monotonic() + PATIENCE_S
        while not self.has_ended():
            if time.monotonic() > end_s:
                self.stop(signal.SIGKILL)
                self.process.wait()
                raise Unexpected(f"it did not end in {PATIENCE_S:.0f} s: {self.words()[-_CUT:]}")
            time.sleep(_POLL_S)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(
            self.process.returncode,
            self._answer.read_text(encoding="utf-8", errors="replace"),
            self.words(),
            time.monotonic() - self.begun_s,
            usage.ru_maxrss / 1024,
        )


def command_of(job: str, words: Sequence[str], environment: Mapping[str, str], before: Sequence[str] = ()) -> list[str]:
    """The command line of a job. `before`: a program that starts it, with arguments, such as `setpriv`."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    script = [sys.executable, str(ROOT / "jobs" / f"{job}.py")]
    return [*before, "env", "-u", "RAY_ADDRESS", "-u", "OMP_NUM_THREADS", *variables, *script, *words]


def limited(kind: int, value: int) -> Callable[[], None]:
    """A function that limits a resource of the process it is called in, and of its children."""
    return lambda: resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def end_processes(mark: str) -> int:
    """End the processes that a killed job left, which have `mark` in their environment; how many there were."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if any(mark in value for value in process.environ().values()):
                left.append(process)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    return len(left)


def finished(ended: Ended) -> Ended:
    """Check that a job ended well: status 0, one line on standard output."""
    check(ended.status == 0, f"exit {ended.status}: {' / '.join(ended.errors)[-_CUT:]}")
    check(len(ended.answer.splitlines()) == 1, f"standard output is {ended.answer[:_CUT]!r}")
    return ended


def refused(ended: Ended, *keys: str, lines: int = 2) -> str:
    """Check that a job ended with exit status 2, nothing on standard output, and a short message with these keys."""
    text = " / ".join(ended.errors)
    check(ended.status == 2, f"exit {ended.status}: {text[-_CUT:]}")
    check(not ended.answer, f"standard output is {ended.answer[:_CUT]!r}")
    check("Traceback" not in ended.words, f"a traceback: {text[-_CUT:]}")
    check(len(ended.errors) <= lines, f"{len(ended.errors)} lines: {text[:_CUT]}")
    for key in keys:
        check(key in text, f"no {key!r} in: {text[:_CUT]}")
    return f"exit 2, {len(ended.errors)} line{'s' if len(ended.errors) > 1 else ''}"


def stopped(ended: Ended, number: signal.Signals) -> str:
    """Check that a stopped job ended with one line, and the status that shells give a process ended by the signal."""
    text = " / ".join(ended.errors)
    check(ended.status == 128 + number, f"exit {ended.status}: {text[-_CUT:]}")
    check(not ended.answer, f"standard output is {ended.answer[:_CUT]!r}")
    check(len(ended.errors) == 1, f"{len(ended.errors)} lines: {text[:_CUT]}")
    check("stopped by" in text and "is kept" in text, f"found {text[:_CUT]}")
    return f"exit {ended.status}, 1 line"
