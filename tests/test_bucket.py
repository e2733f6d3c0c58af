"""Buckets: what is written is there, what is read is fetched, and failing requests change nothing."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from buckets import BUCKET, Server, serving

from emo_ray import arrow_s3, bucket, durable, locks, parquet, store


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    bucket._filesystem.cache_clear()
    for key in running.objects():
        running.client.delete_object(Bucket=BUCKET, Key=key)
    running.failing.rate = 0.0
    yield running
    running.failing.rate = 0.0


def root_in(folder: Path) -> Path:
    return bucket.local_path(f"s3://{BUCKET}/a store", folder)


def fill(folder: Path) -> dict:
    durable.write_text(folder / "a.txt", "one")
    durable.write_text(folder / "inside" / "b.txt", "two")
    return {"found": 2}


def test_paths_and_addresses_are_each_others(tmp_path):
    path = bucket.local_path("s3://bucket/a%20b/c/", tmp_path)
    assert path == tmp_path / bucket.FOLDER / "s3" / "bucket" / "a b" / "c"
    assert bucket.address_of(path / "d?.txt") == "s3://bucket/a%20b/c/d%3F.txt"
    assert bucket.address_of(path / ".d") is None
    assert bucket.address_of(tmp_path / "d") is None
    assert bucket.local_path(bucket.address_of(path / "d?.txt"), tmp_path) == path / "d?.txt"


def test_an_artefact_is_whole_on_a_machine_that_did_not_make_it(server, tmp_path):
    here, elsewhere = root_in(tmp_path / "here"), root_in(tmp_path / "elsewhere")
    store.artefact(here / "kind" / "key", {"kind": "k"}, fill)
    assert server.objects() == {f"a store/kind/key/{name}" for name in ("a.txt", "inside/b.txt", "meta.json")}
    folder = elsewhere / "kind" / "key"
    assert store.is_complete(folder)
    assert not (folder / "a.txt").exists()  # nothing is fetched that nobody reads
    assert store.artefact(folder, {"kind": "k"}, lambda _: pytest.fail("made twice")) == {"kind": "k", "found": 2}
    assert (store.local(folder) / "inside" / "b.txt").read_text() == "two"
    assert store.digest_path(folder) == store.digest_path(here / "kind" / "key")


def test_an_artefact_without_its_meta_is_made_again(server, tmp_path):
    here = root_in(tmp_path / "here")
    folder = here / "kind" / "key"
    server.client.put_object(Bucket=BUCKET, Key="a store/kind/key/old.txt", Body=b"of a process that was killed")
    assert not store.is_complete(folder)
    store.artefact(folder, {}, fill)
    assert "a store/kind/key/old.txt" not in server.objects()
    assert {path.name for path in store.local(folder).iterdir()} == {"a.txt", "inside", "meta.json"}


def test_what_is_lost_in_the_bucket_is_damage(server, tmp_path):
    store.artefact(root_in(tmp_path / "here") / "kind" / "key", {}, fill)
    folder = root_in(tmp_path / "elsewhere") / "kind" / "key"
    server.client.put_object(Bucket=BUCKET, Key="a store/kind/key/a.txt", Body=b"longer")
    with pytest.raises(store.DamagedFile, match=r"a\.txt.*6 of 3 bytes"):
        store.artefact(folder, {}, fill)
    server.client.delete_object(Bucket=BUCKET, Key="a store/kind/key/a.txt")
    with pytest.raises(store.DamagedFile, match=r"a\.txt.*gone"):
        store.artefact(folder, {}, fill)


def test_parts_are_there_as_they_are_finished(server, tmp_path):
    here, elsewhere = root_in(tmp_path / "here") / "parts", root_in(tmp_path / "elsewhere") / "parts"
    table = pa.table({"clip_id": ["a", "b"]})
    parquet.write(here / "part-1.parquet", table)
    assert store.exists(elsewhere / "part-1.parquet")
    assert store.names(elsewhere, "part-*.parquet") == ["part-1.parquet"]
    assert store.missing(elsewhere, ["part-1.parquet", "part-2.parquet"]) == ["part-2.parquet"]
    assert not (elsewhere / "part-1.parquet").exists()
    assert parquet.read(elsewhere / "part-1.parquet").equals(table)
    store.remove(elsewhere)
    assert not store.exists(here / "other")
    assert not server.objects()


def test_lines_are_added_to_what_other_machines_wrote(server, tmp_path):
    here, elsewhere = (root_in(tmp_path / name) / "log.jsonl" for name in ("here", "elsewhere"))
    durable.append_lines(here, ["1"])
    durable.append_lines(elsewhere, ["2"])
    durable.append_lines(here, ["3"])
    assert server.read("a store/log.jsonl") == b"1\n2\n3\n"
    assert bucket.fetch_anew(elsewhere).read_text() == "1\n2\n3\n"


def test_a_damaged_file_is_set_aside_for_all_machines(server, tmp_path):
    root = root_in(tmp_path / "here")
    store.artefact(root / "kind" / "key", {}, fill)
    store.set_aside(root / "kind" / "key" / "a.txt", root)
    assert server.objects() == {"a store/kind/key/a.txt.damaged", "a store/kind/key/inside/b.txt"}


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_machines_exclude_each_other(server, tmp_path, rate):
    server.failing.rate = rate
    within, most, made = [0], [0], []

    def fill_alone(folder: Path) -> None:
        within[0] += 1
        most[0] = max(most[0], within[0])
        durable.write_text(folder / "a.txt", threading.current_thread().name)
        made.append(threading.current_thread().name)
        within[0] -= 1

    def work(name: str) -> None:
        store.artefact(root_in(tmp_path / name) / "kind" / "key", {}, fill_alone)

    threads = [threading.Thread(target=work, args=(f"machine {i}",), name=f"machine {i}") for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(made) == 1
    assert server.read("a store/kind/key/a.txt").decode() == made[0]
    assert not [key for key in server.objects() if "claims" in key]


def test_a_claim_that_is_not_renewed_counts_no_more(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(locks, "_LEASE_S", 1.0)
    monkeypatch.setattr(locks, "_QUIET_WAIT_S", 0.0)
    server.client.put_object(Bucket=BUCKET, Key="a store/key.lock.claims/gone-1", Body=b"of a dead machine")
    path = root_in(tmp_path / "here") / ".key.lock"
    with pytest.raises(TimeoutError, match=r"key\.lock"), locks.lock(path, 0.0):
        pass
    with locks.lock(path) as is_alone:
        assert is_alone
    assert "a process on gone" in capfd.readouterr().err


def test_a_server_that_fails_often_changes_nothing(server, tmp_path):
    server.failing.rate = 0.1
    for i in range(5):
        store.artefact(root_in(tmp_path / "here") / "kind" / str(i), {}, fill)
    for i in range(5):
        folder = root_in(tmp_path / "elsewhere") / "kind" / str(i)
        assert store.is_complete(folder)
        assert (store.local(folder) / "inside" / "b.txt").read_text() == "two"
        store.check_files(folder)
    assert server.failing.failed > 2


def test_a_process_tries_again_however_many_requests_have_failed(server):
    server.failing.rate, server.failing.failed = 0.3, 0
    filesystem = arrow_s3.patient(f"s3://{BUCKET}")
    while server.failing.failed < 120:
        assert not filesystem.get_file_info(f"{BUCKET}/a.txt").is_file


def test_a_server_that_always_fails_is_trouble_of_the_place(server, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_WAITS_S", (0.01,))
    monkeypatch.setattr(arrow_s3, "_TRIES", 1)
    bucket._filesystem.cache_clear()
    server.failing.rate = 1.0
    with pytest.raises(OSError, match="bucket") as error:
        durable.write_text(root_in(tmp_path / "here") / "a.txt", "text")
    from emo_ray import trouble

    assert trouble.is_of_place(error.value)
    assert not (root_in(tmp_path / "here") / "a.txt").exists()
    json.dumps(trouble.reason(error.value))
