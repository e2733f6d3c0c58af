import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from emo_ray import durable


def test_many_writers_of_one_file_all_succeed(tmp_path):
    path = tmp_path / "deep/note.txt"
    texts = [str(i) * 10_000 for i in range(10)]

    def write(text):
        durable.write_text(path, text)
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(write, texts * 10))
    assert seen <= set(texts)
    assert os.listdir(path.parent) == ["note.txt"]


def test_a_link_shares_its_bytes_and_elsewhere_they_are_copied(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("content")
    durable.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino
    monkeypatch.setattr(os, "link", lambda source, target: (_ for _ in ()).throw(OSError("not on this file system")))
    durable.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "content"
    assert (tmp_path / "a").stat().st_mtime_ns == (tmp_path / "c").stat().st_mtime_ns


def test_lines_are_added_whole_also_after_one_that_is_torn(tmp_path):
    path = tmp_path / "deep/log.jsonl"
    durable.append_lines(path, ["1", "2"])
    with path.open("a") as stream:
        stream.write('{"torn')
    durable.append_lines(path, ["3"])
    assert path.read_text(encoding="utf-8").splitlines() == ["1", "2", '{"torn', "3"]


# Runs what is in argv[2], and prints in order what was synced, named (by a rename or a link) or made.
SYNCED = """
import os, sys
from pathlib import Path
import pyarrow as pa
from emo_ray import durable, parquet, store
root = Path(sys.argv[1])

def note(event, arguments):
    if event == "os.rename":
        print("named", Path(arguments[1]).relative_to(root), flush=True)

sync = os.fsync
def fsync(descriptor):
    print("synced", Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(root), flush=True)
    sync(descriptor)

os.fsync = fsync
sys.addaudithook(note)
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    "write",
    [
        "durable.write_text(root / 'a/b', 'text')",
        "durable.write_csv(root / 'a/b', [(1,)])",
        "parquet.write(root / 'a/b', pa.table({'a': [1]}))",
    ],
)
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, write):
    done = subprocess.run([sys.executable, "-c", SYNCED, tmp_path, write], check=True, capture_output=True, text=True)
    made, content, name, folder = done.stdout.splitlines()
    assert made == "synced ."  # the folder a
    assert content.startswith("synced a/.b.")
    assert [name, folder] == ["named a/b", "synced a"]


def test_an_artefact_is_on_the_disk_before_it_has_its_name(tmp_path):
    write = "store.artefact(root / 'a', {}, lambda folder: durable.write_text(folder / 'b', 'text'))"
    done = subprocess.run([sys.executable, "-c", SYNCED, tmp_path, write], check=True, capture_output=True, text=True)
    events = done.stdout.splitlines()
    assert events[-2:] == ["named a", "synced ."]
    assert sum(line.startswith("synced .a-") for line in events[:-2]) == 4  # two files, and their folder after each


def test_progress_is_not_waited_for(tmp_path):
    write = "durable.write_text(root / 'a', 'text', lasting=False)"
    done = subprocess.run([sys.executable, "-c", SYNCED, tmp_path, write], check=True, capture_output=True, text=True)
    assert done.stdout == "named a\n"


def test_a_spreadsheet_is_given_text_and_no_formulas(tmp_path):
    rows = [
        ("clip_id", "value"),
        ("=HYPERLINK(1)", -1.5),
        ("+1", None),
        ("-a", 3),
        ("@x", ""),
        ("\tb", "a,b"),
        ("a=b", -2),
    ]
    durable.write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        read = list(csv.reader(stream))
    assert read == [
        ["clip_id", "value"], ["'=HYPERLINK(1)", "-1.5"], ["'+1", ""], ["'-a", "3"], ["'@x", ""], ["'\tb", "a,b"],
        ["a=b", "-2"],
    ]  # fmt: skip
