"""Faults of services: MLflow's server, storage over a network, GPUs that are not there, and rights on clips."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from emo_ray.experiments.chaos.bucket import serving
from emo_ray.experiments.chaos.contents import contents, differences
from emo_ray.experiments.chaos.faults import Unmakeable, check, fault
from emo_ray.experiments.chaos.running import finished, refused
from emo_ray.experiments.chaos.space import as_any_user
from emo_ray.experiments.chaos.workshop import Workshop, copied_clips

_QUICK_S = 60.0  # until a job says that a service is away; a busy machine takes seconds to start one
_PASSWORD = "correct-horse-battery"
_IMPATIENT = "media.patience_s=1"
_LINES = 6  # a list of what could not be read, with the cause before it and advice behind
_SERVER_S = 120.0  # that MLflow's server may take to start


@fault("MLflow's server", "exit 2, 1 line, within a minute; no password")
def a_server_that_is_away(workshop: Workshop) -> str:
    """Nothing listens at the address, or something that never answers; the address holds a password."""
    words = []
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        closed.bind(("127.0.0.1", 0))
        for name, place in {"nobody": closed, "silence": silent}.items():
            workshop.open_store("train")
            address = f"http://me:{_PASSWORD}@127.0.0.1:{place.getsockname()[1]}"
            ended = workshop.run("train", f"tracking.uri={address}")
            refused(ended, "tracking.uri", lines=1)
            check(_PASSWORD not in ended.words, f"{name}: the password is shown")
            check(ended.seconds < _QUICK_S, f"{name}: after {ended.seconds:.0f} s")
            words.append(f"{name}: exit 2 in {ended.seconds:.0f} s")
    return f"{', '.join(words)}; no password"


@fault("MLflow's server", "exit 0, 1 line; sent by the next job; no password")
def a_server_that_goes_away_in_training(workshop: Workshop) -> str:
    """A real MLflow server is killed when a run has begun, and comes back for the next job."""
    workshop.open_store("train")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = f"tracking.uri=http://me:{_PASSWORD}@127.0.0.1:{port}"
    with _server(workshop.scratch, port) as process:
        running = workshop.start("train", words)
        running.until(lambda: any(workshop.store.glob("train/*")))
        os.killpg(process.pid, signal.SIGKILL)
        ended = finished(running.end())
    waiting = [path for path in (workshop.store / "tracking").rglob("*") if path.is_file()]
    check(waiting, "nothing waits in the store")
    with _server(workshop.scratch, port):
        again = finished(workshop.run("train", words))
    left = [path for path in (workshop.store / "tracking").rglob("*.json*") if path.is_file()]
    check(not left, f"{len(left)} files still wait")
    check(_PASSWORD not in ended.words + again.words, "the password is shown")
    return "exit 0, the rest waits in the store; sent by the next job; no password"


@contextmanager
def _server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on loopback, with a database in the folder, when it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        end_s = time.monotonic() + _SERVER_S
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > end_s:
                raise Unmakeable(f"no MLflow server: {(folder / 'server.log').read_text()[-300:]}")
            time.sleep(0.2)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


@fault("GPUs", "exit 2, 1 line")
def a_gpu_that_is_not_there(workshop: Workshop) -> str:
    """A GPU for each training process, on a machine that hides its own."""
    for workers in (1, 2):
        workshop.open_store("train")
        words = ("train.use_gpu=yes", f"train.num_workers={workers}")
        refused(workshop.run("train", *words, before=("env", "CUDA_VISIBLE_DEVICES=")), "train.use_gpu=yes", lines=1)
    return "2 of 2: exit 2, 1 line"


@fault("storage", "exit 2 within a minute, names the bucket")
def a_bucket_without_credentials_or_network(workshop: Workshop) -> str:
    """A clip in a bucket of gs and of s3, with credentials that are not there."""
    words = []
    for scheme in ("gs", "s3"):
        table = workshop.scratch / "clips.csv"
        table.write_text(f"clip_id,video,label,split\na,{scheme}://emo-ray-no-such-bucket/a.mp4,happy,train\n")
        before = ("env", "GOOGLE_APPLICATION_CREDENTIALS=/nowhere.json", "AWS_EC2_METADATA_DISABLED=true")
        keys = (f"data.manifest={table}", f"data.schemes=[{scheme}]")
        ended = workshop.run("prepare", *keys, before=before)
        refused(ended, "emo-ray-no-such-bucket", lines=6)
        check(ended.seconds < _QUICK_S, f"after {ended.seconds:.0f} s")
        words.append(f"{scheme}: exit 2 in {ended.seconds:.0f} s")
    return ", ".join(words)


@fault("passing trouble", "exit 2, names the clip; rerun equal")
def a_clip_that_may_not_be_read(workshop: Workshop) -> str:
    """Permission denied for one clip, and granted before the next run."""
    corpus = copied_clips(workshop, "corpus")
    words = (f"data.manifest={corpus}", _IMPATIENT)
    expected = _undisturbed(workshop, words)
    denied = sorted(corpus.iterdir())[1]
    denied.chmod(0)
    told = refused(workshop.run("prepare", *words, before=as_any_user()), denied.name, lines=_LINES)
    denied.chmod(0o644)
    return f"{told}; {_ends_equal(workshop, words, expected)}"


@fault("passing trouble", "exit 2, names the clip; rerun equal")
def a_bucket_that_answers_503(workshop: Workshop) -> str:
    """S3's "slow down" for one of the clips in a bucket, which is over before the next run."""
    folder = copied_clips(workshop, "bucket")
    names = sorted(path.name for path in folder.iterdir())
    with serving(folder) as bucket:
        rows = [f"{Path(name).stem},{bucket.address(name)},{('happy', 'sad')[i % 2]}" for i, name in enumerate(names)]
        table = workshop.scratch / "clips.csv"
        table.write_text("\n".join(["clip_id,video,label", *rows]), encoding="utf-8")
        words = (f"data.manifest={table}", "data.schemes=[s3]", "data.outside_root=true", _IMPATIENT)
        expected = _undisturbed(workshop, words)
        bucket.refused[names[1]] = 503
        told = refused(workshop.run("prepare", *words), names[1], lines=_LINES)
        bucket.refused.clear()
        return f"{told}; {_ends_equal(workshop, words, expected)}"


def _undisturbed(workshop: Workshop, words: Sequence[str]) -> dict[str, str]:
    """The contents of a store in which a corpus was prepared; the store is removed."""
    shutil.rmtree(workshop.store, ignore_errors=True)
    finished(workshop.run("prepare", *words))
    expected = contents(workshop.store)
    shutil.rmtree(workshop.store)
    return expected


def _ends_equal(workshop: Workshop, words: Sequence[str], expected: dict[str, str]) -> str:
    finished(workshop.run("prepare", *words))
    difference = differences(expected, contents(workshop.store))
    check(not difference, f"not as undisturbed: the store {difference}")
    return "rerun equal"
