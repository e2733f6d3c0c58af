"""Faults of the place: disk, rights, memory, locks, addresses, MLflow's database."""

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from emo_ray.experiments.chaos.faults import Unmakeable, check, fault
from emo_ray.experiments.chaos.running import end_processes, finished, limited, refused, stopped
from emo_ray.experiments.chaos.workshop import Workshop
from emo_ray.locks import lock

_KEPT_TABLES = ("experiments", "runs", "datasets")  # of MLflow's, in a database that is half made
_ROOM_BYTES = 150_000  # that a full disk has left
_FEW_FILES = 6  # Python starts with them
_LISTED = 6  # lines with the cause, some of the files, and advice
_MEMORY_SHARE = 0.6  # of what a job takes undisturbed
# A process without these is bound to the permissions of files, as any user's.
_AS_ANY_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


@fault("MLflow's database", "made anew, equal")
def half_a_database(workshop: Workshop) -> str:
    """A job finds MLflow's database with some of its tables, as a killed one of an earlier version left it."""
    whole = workshop.after("train") / "mlflow.db"
    half = workshop.scratch / "half.db"
    with closing(sqlite3.connect(whole)) as source:
        query = f"select sql from sqlite_master where type = 'table' and name in {_KEPT_TABLES}"
        with closing(sqlite3.connect(half)) as target:
            target.executescript(";".join(sql for (sql,) in source.execute(query)))
    workshop.open_store("train")
    shutil.copy(half, workshop.store / "mlflow.db")
    return workshop.goes_on("train")


@fault("MLflow's database", "exit 130, 1 line; rerun equal")
def ctrl_c_while_the_database_is_made(workshop: Workshop) -> str:
    """Ctrl-C when MLflow's database has some bytes."""
    workshop.undisturbed("train")
    workshop.open_store("train")
    running = workshop.start("train")
    running.until(lambda: _size(workshop.store, ".mlflow.db*") + _size(workshop.store, "mlflow.db*") > 0)
    running.stop(signal.SIGINT)
    return f"{stopped(running.end(), signal.SIGINT)}; {workshop.goes_on('train')}"


def _size(folder: Path, pattern: str) -> int:
    with suppress(OSError):  # a file that goes between two looks
        return sum(path.stat().st_size for path in folder.glob(pattern) if path.suffix != ".lock")
    return 0


@fault("addresses of stores", "exit 2, 1 line; nothing written")
def a_store_that_is_no_folder(workshop: Workshop) -> str:
    """Addresses of buckets and shares, and names that MLflow's database cannot lie in."""
    odd = [str(workshop.scratch / name) for name in ("a?b", "a%41b")]
    addresses = [f"{scheme}://bucket/x" for scheme in ("s3", "gs", "hdfs", "file", "memory")]
    for place in (*addresses, *odd):
        refused(workshop.run("train", f"store.root={place}"), "store.root", place, lines=1)
    written = {path.name for path in workshop.scratch.iterdir()} - {"stdout.txt", "stderr.txt"}
    check(not written, f"written: {', '.join(written)}")
    return f"{len(addresses) + len(odd)} of {len(addresses) + len(odd)}: exit 2, 1 line; nothing written"


@fault("disk", "exit 2, 2 lines; rerun equal")
def the_disk_is_full_while_a_model_is_trained(workshop: Workshop) -> str:
    """A file system with little room, which grows afterwards."""
    return _full_disk(workshop, "train")


@fault("disk", "exit 2, 2 lines; rerun equal")
def the_disk_is_full_while_clips_are_decoded(workshop: Workshop) -> str:
    """A file system with little room, which workers of Ray write to."""
    return _full_disk(workshop, "prepare")


def _full_disk(workshop: Workshop, job: str) -> str:
    workshop.undisturbed(job)
    workshop.open_store(job)
    used = sum(path.stat().st_blocks * 512 for path in workshop.store.rglob("*")) if workshop.store.exists() else 0
    with _mounted(workshop.store, ("-t", "tmpfs", "-o", f"size={used + _ROOM_BYTES}", "tmpfs")):
        words = refused(workshop.run(job), "no space is left", "kept")
        _mount("-o", "remount,size=1g", str(workshop.store))
        return f"{words}; {workshop.goes_on(job)}"


@fault("rights", "exit 2, 2 lines; rerun equal")
def a_store_that_is_mounted_read_only(workshop: Workshop) -> str:
    """A mount without the right to write."""
    workshop.undisturbed("train")
    workshop.open_store("train")
    with _mounted(workshop.store, ("--bind", str(workshop.store))):
        _mount("-o", "remount,ro,bind", str(workshop.store))
        words = refused(workshop.run("train"), "cannot be written")
    return f"{words}; {workshop.goes_on('train')}"


@fault("rights", "exit 2, 2 lines; rerun equal")
def a_store_without_the_right_to_write(workshop: Workshop) -> str:
    """Permissions that let nobody write."""
    workshop.undisturbed("train")
    workshop.open_store("train")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [workshop.store, *workshop.store.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    ended = workshop.run("train", before=as_any_user())
    for path, mode in modes.items():
        path.chmod(mode)
    return f"{refused(ended, 'cannot be written')}; {workshop.goes_on('train')}"


def as_any_user() -> Sequence[str]:
    """The program that starts a job which is bound to permissions. Raises Unmakeable where root is and it is not."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        raise Unmakeable("root may write everywhere, and there is no setpriv")
    return _AS_ANY_USER


@fault("store deleted", "exit 2, 1 line; made anew")
def a_store_deleted_midway(workshop: Workshop) -> str:
    """The store is deleted while clips are decoded to it."""
    workshop.undisturbed("train")
    shutil.rmtree(workshop.store, ignore_errors=True)  # it is there where the job was run just now
    running = workshop.start("train")
    running.until(lambda: any(workshop.store.glob("shards/*/*.parquet")))
    shutil.rmtree(workshop.store, ignore_errors=True)
    ended = running.end()
    words = "exit 0" if ended.status == 0 else refused(ended, "is gone", lines=1)  # 0: nothing of it was needed again
    shutil.rmtree(workshop.store, ignore_errors=True)
    for job in ("prepare", "features"):  # the store that training starts from
        finished(workshop.run(job))
    return f"{words}; {workshop.goes_on('train')}"


@fault("memory", "exit 2, 2 lines; rerun equal")
def no_memory_is_left(workshop: Workshop) -> str:
    """The job's own processes may take a share of the memory that they need."""
    peak_bytes = finished(_opened(workshop, "train").run("train")).peak_mb * 2**20
    workshop.undisturbed("train")
    prepare = limited(resource.RLIMIT_DATA, int(peak_bytes * _MEMORY_SHARE))
    words = refused(_opened(workshop, "train").run("train", prepare=prepare), "memory")
    return f"{words}; {workshop.goes_on('train')}"


def _opened(workshop: Workshop, job: str) -> Workshop:
    workshop.open_store(job)
    return workshop


@fault("open files", "exit 2, cause or list of files; rerun equal")
def too_many_open_files(workshop: Workshop) -> str:
    """The job's own process may have few files open at once."""
    workshop.undisturbed("evaluate")
    workshop.open_store("evaluate")
    ended = workshop.run("evaluate", prepare=limited(resource.RLIMIT_NOFILE, _FEW_FILES))
    return f"{refused(ended, lines=_LISTED)}; {workshop.goes_on('evaluate')}"


@fault("lock", "says for whom it waits; equal")
def another_process_holds_a_lock(workshop: Workshop) -> str:
    """The lock of the model that is to be trained is held, and let go when the job has said that it waits."""
    workshop.undisturbed("train")
    workshop.after("train")
    name = workshop.model().name
    workshop.open_store("train")
    with lock(workshop.store / "checkpoints" / f".{name}.lock"):
        running = workshop.start("train")
        holder = f"waiting for process {os.getpid()} on this machine"
        running.until(lambda: holder in running.words())
    finished(running.end())
    return f"says that it waits for a process on this machine; {workshop.is_equal('train')}"


@fault("what Ray leaves", "nothing")
def a_job_that_ends_well_leaves_nothing_of_ray(workshop: Workshop) -> str:
    """No session folder of Ray and no process."""
    workshop.open_store("features")
    finished(workshop.run("features"))
    sessions = [path.name for path in (workshop.folder / "ray" / "ray").glob("session_*")]
    check(not sessions, f"left: {', '.join(sessions)}")
    left = end_processes(str(workshop.folder))
    check(not left, f"{left} processes left")
    return "no session folder, no process"


@contextmanager
def _mounted(folder: Path, words: Sequence[str]) -> Iterator[None]:
    """A file system at a folder, with the folder's content. Raises Unmakeable where none can be mounted."""
    content = folder.with_name(f"{folder.name}-content")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, content, symlinks=True)
    try:
        _mount(*words, str(folder))
        try:
            shutil.copytree(content, folder, symlinks=True, dirs_exist_ok=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
    finally:
        shutil.rmtree(content)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Unmakeable(f"mount: {done.stderr.strip()}")
