"""Jobs about a store as a whole, of a store in a bucket: its front page, what is damaged, what its jobs did."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import BUCKET, Server, serving

from emo_ray import bucket, cluster, durable, job_log, store
from emo_ray.config import Config, load
from emo_ray.reports.page import Page, write
from emo_ray.stages.report import report
from emo_ray.stages.status import status
from emo_ray.stages.verify import verify


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        bucket._filesystem.cache_clear()
        yield running


def config_of(cache: Path, **changes: object) -> Config:
    settings = {"store.root": f"s3://{BUCKET}/store", "store.cache": str(cache), "tracking.enabled": False}
    return load("mini", {**settings, **changes})


def fill(folder: Path) -> None:
    write(Page("What was checked", "12 clips", [], "a test"), folder / "report.html")
    durable.write_bytes(folder / "picture.png", bytes(10_000))


def test_a_store_is_shown_verified_and_mended_from_a_machine_that_has_nothing_of_it(server, tmp_path):
    root = cluster.store_root(config_of(tmp_path / "a"))
    store.artefact(root / "checks" / "key", {"kind": "check", "summary": "12 clips, all well"}, fill)
    with job_log.recorded(root, "check", ["mini"]) as log:
        log.write("ended", {"status": 0})

    result = report(config_of(tmp_path / "b"))
    assert "12 clips, all well" in server.read("store/index.html").decode()
    assert 'href="checks/key/report.html"' in server.read("store/index.html").decode()
    assert not (result.path.parent / "checks" / "key" / "picture.png").exists()  # pictures are not fetched for it

    assert [job["job"] for job in status(config_of(tmp_path / "c")).content["jobs"]] == ["check"]
    assert verify(config_of(tmp_path / "d")).status == 0
    server.put("store/checks/key/picture.png", b"\1" * 10_000)
    assert verify(config_of(tmp_path / "e")).content["damaged"][0]["path"] == "checks/key/picture.png"
    verify(config_of(tmp_path / "e", **{"verify.mend": True}))
    assert {key for key in server.objects() if "checks" in key} == {
        "store/checks/key/picture.png.damaged",
        "store/checks/key/report.html",
    }
    assert not store.is_complete(cluster.store_root(config_of(tmp_path / "f")) / "checks" / "key")
