import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from part_tables import table_of

from emo_ray import durable, parquet, store
from emo_ray.config import Config
from emo_ray.config.endpoint_settings import Annotate
from emo_ray.locks import lock
from emo_ray.models import checkpoint
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import ChatAnswer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def reordered(value):
    """The same value with every dict's keys inserted the other way round, and lists as tuples."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return tuple(reordered(item) for item in value) if isinstance(value, list) else value


@given(value=VALUES)
def test_digest_does_not_depend_on_the_order_of_keys(value):
    assert store.digest(value) == store.digest(reordered(value))
    assert len(store.digest(value)) == 16
    assert int(store.digest(value), 16) >= 0


@given(first=VALUES, second=VALUES)
def test_different_values_have_different_digests(first, second):
    are_equal = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (store.digest(first) == store.digest(second)) == are_equal


def test_digest_is_the_same_in_another_process():
    code = "from emo_ray import store; print(store.digest({'b': 1, 'a': [2, 'ü', None]}, 0.1))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert process.stdout.strip() == store.digest({"a": [2, "ü", None], "b": 1}, 0.1)


def test_digest_separates_its_parts():
    digests = [store.digest(*parts) for parts in ((), ("ab",), ("a", "b"), (["a", "b"],), ("a", ["b"]), ("1",), (1,))]
    assert len(set(digests)) == len(digests)


def test_digest_path_follows_the_content_alone(tmp_path):
    def folder(name, files):
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return store.digest_path(tmp_path / name)

    first = folder("a", {"x": b"1", "deep/y": b"2"})
    assert folder("b", {"deep/y": b"2", "x": b"1"}) == first
    others = [
        folder("c", {"x": b"1", "deep/y": b"3"}),
        folder("d", {"x": b"1", "deep/z": b"2"}),
        folder("e", {"x": b"1", "y": b"2"}),
        folder("f", {"x": b"12", "deep/y": b""}),
        folder("g", {"x": b"1"}),
    ]
    assert len({first, *others}) == 6
    os.utime(tmp_path / "a/x", (1, 1))
    assert store.digest_path(tmp_path / "a") == first
    assert store.digest_path(tmp_path / "a/x") == store.digest_path(tmp_path / "g/x")
    assert store.digest_path(tmp_path / "a/x") != store.digest_path(tmp_path / "a/deep/y")


def test_digest_path_of_a_large_file_sees_size_and_stretches_from_head_to_tail(tmp_path):
    path, size = tmp_path / "weights", 640 * 2**20
    with path.open("wb") as stream:
        stream.truncate(size)  # sparse: costs no disk
    os.utime(path, (1, 1))
    digests = [store.digest_path(path)]
    for place in (0, size // 4, size // 2, size - 1):
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x" * min(2**24, size - place))
        os.utime(path, (1, 1))
        digests.append(store.digest_path(path))
    with path.open("ab") as stream:
        stream.write(b"\0")
    os.utime(path, (1, 1))
    digests.append(store.digest_path(path))
    assert len(set(digests)) == 6


def test_an_artefact_appears_whole(tmp_path):
    folder = tmp_path / "kind" / "abc"
    with store.writing(folder, {"kind": "test", "path": Path("x")}) as temporary:
        (temporary / "part").write_text("content")
        assert not folder.exists()
    assert store.is_complete(folder)
    assert store.read_meta(folder) == {"kind": "test", "path": "x"}
    assert (folder / "part").read_text() == "content"
    assert os.listdir(folder.parent) == ["abc"]
    assert folder.stat().st_mode & 0o055 == 0o055  # other users of a shared store can read it


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    folder = tmp_path / "abc"
    with pytest.raises(error), store.writing(folder, {}) as temporary:  # noqa: PT012
        (temporary / "part").write_text("half")
        raise error
    assert not os.listdir(tmp_path)
    assert not store.is_complete(folder)
    with pytest.raises(ValueError, match=r"abc: .*meta\.json"):
        store.read_meta(folder)


def test_a_killed_write_is_no_artefact_and_can_be_repeated(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from emo_ray import store\n"
        "with store.writing(Path(sys.argv[1]), {}) as temporary:\n"
        "    (temporary / 'part').write_text('half'); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "abc"
    assert subprocess.run([sys.executable, "-c", code, folder]).returncode == -9
    assert not folder.exists()
    with store.writing(folder, {}) as temporary:
        (temporary / "part").write_text("whole")
    assert (folder / "part").read_text() == "whole"


def fill_with(content, entries=None):
    """A function that fills an artefact's folder with one file, and notes each call in `fill.calls`."""

    def fill(folder):
        fill.calls += 1
        (folder / "part").write_text(content)
        return entries

    fill.calls = 0
    return fill


def visible(folder):
    """Names in a folder without those of locks, which stay."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_an_artefact_is_made_once_with_what_its_filling_adds_to_the_meta(tmp_path):
    folder, fill = tmp_path / "kind" / "abc", fill_with("content", {"clips": 3, "kind": "of the filling"})
    meta = store.artefact(folder, {"kind": "test", "version": 1}, fill)
    assert meta == {"kind": "of the filling", "version": 1, "clips": 3} == store.read_meta(folder)
    assert store.artefact(folder, {"kind": "another"}, fill) == meta
    assert fill.calls == 1
    assert store.artefact(tmp_path / "kind" / "def", {"kind": "test"}, fill_with("content")) == {"kind": "test"}
    assert visible(folder.parent) == ["abc", "def"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_where_filling_fails_nothing_is_left_and_the_next_one_makes_it(tmp_path, error):
    def fail(folder):
        (folder / "part").write_text("half")
        raise error

    with pytest.raises(error):
        store.artefact(tmp_path / "abc", {}, fail)
    assert visible(tmp_path) == []
    store.artefact(tmp_path / "abc", {}, fill_with("whole"))
    assert (tmp_path / "abc" / "part").read_text() == "whole"


# A process that says that it is ready, waits for its turn, and makes an artefact of many files, unless another does.
MAKING = """
import sys
from pathlib import Path
from emo_ray import durable, store

def fill(folder):
    with (Path(sys.argv[1]).parent / "fillings").open("a") as log:
        log.write(sys.argv[2] + "\\n")
    for i in range(300):
        (folder / str(i)).write_text(sys.argv[2])

print("ready", flush=True)
sys.stdin.readline()
print(store.artefact(Path(sys.argv[1]), {"by": sys.argv[2]}, fill)["by"])
"""


def test_of_processes_that_need_an_artefact_at_once_one_makes_it(tmp_path):
    command = [sys.executable, "-c", MAKING, str(tmp_path / "abc")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    makers = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(makers) == 1
    assert (tmp_path / "fillings").read_text().split() == list(makers)
    assert {path.read_text() for path in (tmp_path / "abc").glob("[0-9]*")} == makers
    assert visible(tmp_path) == ["abc", "fillings"]


KILLED = """
import os, sys
from pathlib import Path
from emo_ray import durable, store

def fill(folder):
    (folder / "part").write_text("half")
    os.kill(os.getpid(), 9)

store.artefact(Path(sys.argv[1]), {}, fill)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    (tmp_path / ".abcd-0").mkdir()  # of another artefact, which somebody may be making
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "abc"]).returncode == -9
    (leftover,) = tmp_path.glob(".abc-*")
    assert (leftover / "part").read_text() == "half"
    assert not store.is_complete(tmp_path / "abc")
    store.artefact(tmp_path / "abc", {}, fill_with("whole"))
    assert visible(tmp_path) == [".abcd-0", "abc"]
    assert (tmp_path / "abc" / "part").read_text() == "whole"


NO_LOCKS = [NotImplementedError("no flock"), OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))]


def lock_with(monkeypatch, error):
    """Make filelock fail with this error, as on a file system of a certain kind."""

    def acquire(lock, *arguments, **options):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)


@pytest.mark.parametrize("error", NO_LOCKS, ids=lambda error: type(error).__name__)
def test_without_locks_an_artefact_is_made_and_others_work_is_left_alone(tmp_path, monkeypatch, error):
    lock_with(monkeypatch, error)
    (tmp_path / ".abc-0").mkdir()  # of a process that may be filling it
    with lock(tmp_path / ".abc.lock") as is_locked:
        assert not is_locked
    meta = store.artefact(tmp_path / "abc", {"kind": "test"}, fill_with("content", {"clips": 3}))
    assert meta == {"kind": "test", "clips": 3}
    assert visible(tmp_path) == [".abc-0", "abc"]


def test_a_lock_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / ".abc.lock").mkdir()
    fill = fill_with("content")
    with pytest.raises(IsADirectoryError):
        store.artefact(tmp_path / "abc", {}, fill)
    assert fill.calls == 0


def test_an_artefact_that_cannot_be_put_in_its_place_is_an_error(tmp_path):
    (tmp_path / "abc").write_text("a file where the folder belongs")
    with pytest.raises(OSError, match="abc"):
        store.artefact(tmp_path / "abc", {}, fill_with("content"))
    assert visible(tmp_path) == ["abc"]


def test_the_first_complete_artefact_wins(tmp_path):
    folder = tmp_path / "abc"
    with store.writing(folder, {"by": "slow"}) as slow:
        with store.writing(folder, {"by": "quick"}) as quick:
            (quick / "part").write_text("quick")
        (slow / "part").write_text("slow")
    assert store.read_meta(folder) == {"by": "quick"}
    assert (folder / "part").read_text() == "quick"
    assert os.listdir(tmp_path) == ["abc"]


@pytest.mark.parametrize("leftovers", [["part", "other"], []])
def test_an_incomplete_folder_is_replaced(tmp_path, leftovers):
    folder = tmp_path / "abc"
    folder.mkdir()
    for name in leftovers:
        (folder / name).write_text("half")
    with store.writing(folder, {}) as temporary:
        (temporary / "part").write_text("whole")
    assert sorted(os.listdir(folder)) == ["meta.json", "part"]
    assert (folder / "part").read_text() == "whole"


def test_many_writers_of_one_artefact_all_succeed(tmp_path):
    def write(writer):
        with store.writing(tmp_path / "abc", {"by": writer}) as temporary:
            (temporary / "part").write_text(str(writer))
        return store.read_meta(tmp_path / "abc")["by"]  # never gone again once it was there

    with ThreadPoolExecutor(8) as pool:
        winners = set(pool.map(write, range(64)))
    assert len(winners) == 1
    assert (tmp_path / "abc/part").read_text() == str(winners.pop())
    assert os.listdir(tmp_path) == ["abc"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "table.parquet"
    parquet.write(path, pa.table({"a": [1, 2, 3]}), rows_per_group=2)
    with pytest.raises(pa.ArrowException):
        parquet.write(path, pa.table({"a": [4]}), codec="no such codec")
    assert pq.read_table(path)["a"].to_pylist() == [1, 2, 3]
    assert pq.ParquetFile(path).num_row_groups == 2
    assert os.listdir(tmp_path) == ["table.parquet"]


@pytest.mark.parametrize("content", [b"", b'{"a": [1, 2', b"\xff", b"[" * 100_000, b"[]"])
def test_a_meta_that_is_cut_or_something_else_is_named(tmp_path, content):
    store.artefact(tmp_path / "a", {"kind": "test"}, fill_with("content"))
    (tmp_path / "a/meta.json").write_bytes(content)
    with pytest.raises(store.DamagedFile, match=r"meta\.json: found a damaged file"):
        store.read_meta(tmp_path / "a")


@pytest.mark.parametrize("name", ["ledger.parquet", "meta.json"])
def test_an_artefact_with_a_damaged_file_is_made_again(tmp_path, name):
    def fill(folder):
        parquet.write(folder / "ledger.parquet", table_of(4))

    folder = tmp_path / "kind/a"
    store.artefact(folder, {}, fill)
    whole = store.files_of(folder)
    (folder / name).write_bytes(b"PAR1")
    store.set_aside(folder / name, tmp_path)
    assert not store.is_complete(folder)
    assert (folder / f"{name}.damaged").read_bytes() == b"PAR1"
    store.artefact(folder, {}, fill)
    assert store.files_of(folder) == whole
    assert whole["ledger.parquet"][1] == store.file_digest(folder / "ledger.parquet")
    assert sorted(os.listdir(folder)) == ["ledger.parquet", "meta.json"]


def test_links_to_a_damaged_file_are_set_aside_with_it_and_so_are_the_artefacts_around(tmp_path):
    parts, artefact = tmp_path / "predictions/parts-1", tmp_path / "predictions/2"
    parquet.write(parts / "part-a.parquet", table_of(4))
    parquet.write(tmp_path / "features/3/part-a.parquet", table_of(4))
    part = parts / "part-a.parquet"
    store.artefact(artefact, {}, lambda folder: durable.link_or_copy(part, folder / "b" / part.name))
    store.set_aside(part, tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("part-*")}
    assert left == {
        "features/3/part-a.parquet",
        "predictions/2/b/part-a.parquet.damaged",
        "predictions/parts-1/part-a.parquet.damaged",
    }
    assert not store.is_complete(artefact)


def test_the_name_of_readings_outlives_a_damaged_table(tmp_path):
    folder, name = answer_log.open_folder(tmp_path, Annotate())
    parquet.write(folder / "readings-1.parquet", table_of(4))
    store.set_aside(folder / "readings-1.parquet", tmp_path)
    assert answer_log.open_folder(tmp_path, Annotate()) == (folder, name)


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)], ids=["002", "077"]
)
def test_the_umask_is_respected_in_both_directions(tmp_path, umask, file_mode, folder_mode):
    def fill(folder):
        (folder / "deep").mkdir()
        parquet.write(folder / "deep" / "part.parquet", pa.table({"a": [1]}))
        durable.write_csv(folder / "list.csv", [("a",)])
        checkpoint.write(folder, {"classify.bias": torch.zeros(2)}, Config(), ["a", "b"], "card")

    before = os.umask(umask)
    try:
        store.artefact(tmp_path / "made" / "kind" / "digest", {}, fill)
        folder, _ = answer_log.open_folder(tmp_path / "made", Annotate())
        with answer_log.locked(folder):
            answer_log.writer(folder)(ChatAnswer("a", "ok", "words"))
    finally:
        os.umask(before)
    made = sorted((tmp_path / "made").rglob("*"))
    assert {path.name for path in made} >= {"model.safetensors", "meta.json", "part.parquet", "lock"}
    modes = {path: path.stat().st_mode & 0o777 for path in made}
    assert modes == {path: folder_mode if path.is_dir() else file_mode for path in made}
