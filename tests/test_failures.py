"""Why a job ended: a line or two for signals and trouble of the machine, none for bugs."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from emo_ray.failures import failure_of
from emo_ray.trouble import PlaceTrouble

ROOT = Path(__file__).parents[1]


class WorkerGroupError(Exception):
    """Ray Train raises such an error: it holds the errors of the workers by rank."""

    def __init__(self, error):
        super().__init__("training failed")
        self.worker_failures = {0: error}


class SafetensorError(Exception):
    """safetensors raises such an error: it holds text and no errno."""


def caused_by(cause):
    error = RuntimeError("something went wrong")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause", "detail"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/store/a"), "space", "/store/a"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "space", "too large"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "space", "os error 28"),
        (sqlite3.OperationalError("database or disk is full"), "space", "disk is full"),
        (WorkerGroupError(OSError(errno.ENOSPC, "No space left on device")), "space", "No space"),
        (caused_by(RuntimeError("trace\nOSError: No space left on device: '/a'\nhint of Ray")), "space", "'/a'"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/store/b"), "written or read", "/store/b"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "written or read", "Read-only"),
        (MemoryError(), "memory", "MemoryError"),
        (RuntimeError("can't start new thread"), "memory", "thread"),
        (ImportError("/lib/_C.so: failed to map segment from shared object"), "memory", "_C.so"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory", "2 GiB"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "open", "ulimit -n"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "storage", "output error"),
    ],
)
def test_trouble_of_the_machine_is_two_lines_with_cause_store_and_what_to_do(error, cause, detail, tmp_path):
    failure = failure_of(error, tmp_path)
    first, second = failure.message.splitlines()
    assert failure.status == 2
    assert cause in first
    assert detail in failure.message
    assert f"kept in {tmp_path}" in second
    assert "run it again" in second
    assert len(failure_of(error, None).message.splitlines()) == 1


def test_what_a_user_can_mend_is_its_message_wherever_it_was_raised(tmp_path):
    for error in (ValueError("found a"), caused_by(ValueError("found a")), WorkerGroupError(ValueError("found a"))):
        assert failure_of(error, tmp_path).message == "error: found a"


def test_bugs_keep_their_traceback(tmp_path):
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    for error in (KeyError("a"), RuntimeError("shapes differ"), caught.value, FileNotFoundError("/elsewhere/a")):
        assert failure_of(error, tmp_path) is None


def test_a_store_that_was_deleted_is_named(tmp_path):
    assert f"{tmp_path / 'absent'} is gone" in failure_of(KeyError("a"), tmp_path / "absent").message
    for error in (
        FileNotFoundError(str(tmp_path / "part")),
        FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "part")),
        caused_by(RuntimeError(f"[Errno 2] No such file or directory: '{tmp_path}/part'")),
    ):
        assert f"{tmp_path / 'part'} is gone" in failure_of(error, tmp_path).message
    media = PlaceTrouble({str(tmp_path / "corpora" / "a.mp4"): "no such file"})
    assert f"{tmp_path / 'corpora' / 'a.mp4'} is gone" in failure_of(media, tmp_path).message
    assert "is gone" not in failure_of(PlaceTrouble({"/elsewhere/a.mp4": "no such file"}), tmp_path).message


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_is_one_line_whatever_is_raised_on_the_way(number, word):
    code = (
        "import sys\nfrom pathlib import Path\nfrom emo_ray import failures\nfailures.catch_signals()\n"
        "try:\n try:\n  print(flush=True)\n  sys.stdin.read()\n"
        " except BaseException:\n  raise OSError(28, 'on the way')\n"
        "except BaseException as error:\n failure = failures.failure_of(error, Path('/store'))\n"
        " print(failure.message)\n sys.exit(failure.status)"
    )

    def unignore():
        """A shell ignores Ctrl-C for what runs behind, and nohup the end of a terminal."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=unignore,
    )
    process.stdout.readline()
    process.send_signal(number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert len(told.splitlines()) == 1
    assert "kept in /store" in told
    assert word in told
