"""Real jobs that are stopped, or lose their store: a line or two, the right status, and nothing of Ray's is left."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from emo_ray.config import dump

JOB = Path(__file__).resolve().parents[1] / "jobs" / "evaluate.py"


@pytest.fixture
def job(tiny_config, tmp_path):
    """A function that starts the tiny job with a store and a Ray of its own; and the folder of Ray's sessions."""
    (tmp_path / "tiny.yaml").write_text(dump(tiny_config))
    ray_folder = Path(tempfile.mkdtemp(prefix="emo-ray-", dir="/tmp"))  # the paths of sockets are short

    def start():
        return subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path / "tiny.yaml"), f"store.root={tmp_path / 'store'}"],
            env={**os.environ, "RAY_TMPDIR": str(ray_folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # where a shell ignored it
        )

    yield start, tmp_path / "store", ray_folder / "ray"
    shutil.rmtree(ray_folder)


def wait_for(process, folder, pattern):
    end_s = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob(pattern)) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert process.poll() is None


def messages(told):
    """The lines that are no progress."""
    return [line for line in told.splitlines() if line and not re.match(r"[\w, ]+: \d+ \w+ in |\d+ clips \(", line)]


@pytest.mark.slow  # a whole job with a Ray of its own
@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        (signal.SIGTERM, "corpora/*/clips/*"),
        (signal.SIGINT, "shards/*/*.parquet"),
        (signal.SIGTERM, "train/*/*"),
        (signal.SIGINT, "checkpoints/*"),
    ],
)
def test_a_stopped_job_says_what_is_kept_and_goes_on_when_it_is_run_again(job, number, pattern):
    start, root, sessions = job
    process = start()
    wait_for(process, root, pattern)
    process.send_signal(number)
    answer, told = process.communicate(timeout=120)
    assert (process.returncode, answer) == (128 + number, ""), told
    (line,) = messages(told)
    assert line.startswith("stopped by ")
    assert str(root) in line
    assert not list(sessions.glob("session_*"))
    again = start()
    answer, told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert (Path(answer.strip()) / "report.json").is_file()
    assert not list(sessions.glob("session_*"))


@pytest.mark.slow  # a whole job with a Ray of its own
def test_a_job_whose_store_is_deleted_says_so(job):
    start, root, _ = job
    process = start()
    wait_for(process, root, "shards/*/*.parquet")
    shutil.rmtree(root, ignore_errors=True)
    answer, told = process.communicate(timeout=120)
    if process.returncode == 0:  # it was deleted before anything of it was needed again
        assert answer
        return
    assert process.returncode == 2, told
    (line,) = messages(told)
    assert "is gone" in line
    assert str(root) in line


@pytest.mark.slow  # a whole job
def test_a_job_that_cannot_write_more_says_so_and_goes_on_when_it_can(ray_session, evaluated, tiny_config, tmp_path):
    """No file of the job's own process may be larger than 20 kB, as on a disk that is almost full."""
    (tmp_path / "tiny.yaml").write_text(dump(tiny_config))
    command = [sys.executable, str(JOB), str(tmp_path / "tiny.yaml"), "seed=17", "tracking.enabled=false"]
    environment = {**os.environ, "RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}

    def run(limit_bytes):
        limits = (limit_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        return subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=limit, timeout=300)

    full = run(20_000)
    assert (full.returncode, full.stdout) == (2, ""), full.stderr
    first, second = messages(full.stderr)
    assert "no space is left" in first
    assert f"kept in {tiny_config.store.root}" in second
    assert run(resource.RLIM_INFINITY).returncode == 0
