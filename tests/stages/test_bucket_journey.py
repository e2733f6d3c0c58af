"""Every job with every path in a bucket: the same bytes as on disk, also where a tenth of the requests fail."""

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import BUCKET, Server, serving

from emo_ray.config import absolute_paths, dump, load, override
from emo_ray.data import synthetic
from emo_ray.data.inputs import fetched

pytestmark = pytest.mark.slow  # five whole jobs, three times over

JOBS = ("prepare", "train", "evaluate", "pseudo_label", "tune")
CHANGES = {
    "synthetic.train_clips": 24,
    "synthetic.validation_clips": 12,
    "synthetic.test_clips": 12,
    "synthetic.unlabelled_clips": 12,
    "media.clips_per_part": 8,
    "tracking.enabled": False,
    "tune.trials": 4,
    "tune.space": {"fusion.dropout": {"uniform": [0.1, 0.6]}, "fusion.lr": {"loguniform": [0.0005, 0.01]}},
    "train.num_workers": 2,
    "cluster.num_cpus": 4,
    "data.outside_root": False,
    "pseudo.floor": 0.1,
}
_NAME = "a %20 store#"
# Times, pages that show them, and a table of them beside the JSON that is compared.
_UNCOMPARED = re.compile(r"(\.html|\.claims/.*|trials\.csv|\.lock|\.damaged)$|/\.|^\.|^(train|tune|tracking)/")
_TIMES = re.compile(r"(^|_)(s|seconds|waited)$|^files$")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def recipe(tiny_config, server, tmp_path_factory) -> Path:
    """The recipe of all journeys, whose corpus lies in the bucket as a table and media beside it."""
    folder = tmp_path_factory.mktemp("journeys")
    config = override(tiny_config, CHANGES)
    rows = ["clip_id,video,audio,text,label,split,speaker"]
    for script in synthetic.write_scripts(config.synthetic):
        clip = synthetic.render(script, folder / "corpus")
        video, audio = (path and path.removeprefix(f"{folder / 'corpus'}/") for path in (clip.video, clip.audio))
        words = [clip.clip_id, video, audio, json.dumps(clip.text), clip.label, clip.split, clip.speaker]
        rows.append(",".join(word or "" for word in words))
    (folder / "corpus" / "clips.csv").write_text("\n".join(rows) + "\n")
    for path in (folder / "corpus").rglob("*"):
        if path.is_file():
            server.client.upload_file(str(path), BUCKET, f"corpus/{path.relative_to(folder / 'corpus').as_posix()}")
    config = override(config, {"data.manifest": f"s3://{BUCKET}/corpus/clips.csv"})
    (folder / "tiny.yaml").write_text(dump(config))
    return folder / "tiny.yaml"


def journey(recipe: Path, root: str, cache: Path) -> None:
    """All jobs in a process of their own, whose Ray knows of the bucket; each is on a machine that has nothing yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where `buckets` is
        command = [sys.executable, __file__, str(recipe), root, str(cache)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=3600, cwd=recipe.parent)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "hidden-secret" not in ended.stderr


def run_jobs(recipe: str, root: str, cache: str) -> None:
    """prepare, train, evaluate, pseudo_label and tune."""
    model = None
    for name in JOBS:
        changes = {"store.root": root, "store.cache": f"{cache}/{name}"}
        if name in ("evaluate", "pseudo_label"):
            changes["checkpoint"] = f"{root}/checkpoints/{model}"
        if name == "tune":  # stacked heads: trials of Ray Tune end in any order
            changes["train.num_workers"] = 0
        config = absolute_paths(fetched(load(recipe, changes)))
        result = getattr(importlib.import_module(f"emo_ray.stages.{name}"), name)(config)
        model = result.path.name if name == "train" else model
        print(f"{time.monotonic():.0f} s: {name}: {result.path}", file=sys.stderr, flush=True)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if not _TIMES.search(key)}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def comparable(name: str, content: bytes, roots: list[str]) -> Any:
    """The content of a file without times and without where the store and the copies of what it reads lie."""
    if not name.endswith((".json", ".yaml", ".txt", ".md", ".csv")):
        return content
    text = content.decode()
    for root in roots:
        text = text.replace(root, "ROOT")
    return timeless(json.loads(text)) if name.endswith(".json") else text


def in_bucket(server: Server, prefix: str, roots: list[str]) -> dict[str, Any]:
    names = [key.removeprefix(f"{prefix}/") for key in server.objects() if key.startswith(f"{prefix}/")]
    return {
        name: comparable(name, server.read(f"{prefix}/{name}"), roots) for name in names if not _UNCOMPARED.search(name)
    }


@pytest.fixture(scope="module")
def on_disk(recipe, server, tmp_path_factory) -> dict[str, Any]:
    """What the jobs leave in a store on disk, whose name might be taken for an address; the corpus is in the bucket."""
    folder = tmp_path_factory.mktemp("disk")
    journey(recipe, str(folder / _NAME), folder / "cache")
    files = {p.relative_to(folder / _NAME).as_posix(): p for p in (folder / _NAME).rglob("*") if p.is_file()}
    roots = [str(folder / _NAME), *(f"{folder / 'cache' / job}" for job in JOBS)]
    return {
        name: comparable(name, path.read_bytes(), roots) for name, path in files.items() if not _UNCOMPARED.search(name)
    }


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_store_in_a_bucket_holds_the_same_bytes_as_one_on_disk(server, recipe, on_disk, tmp_path, rate):
    prefix = f"store-{rate:g}"
    server.failing.rate, server.failing.failed = rate, 0
    try:
        journey(recipe, f"s3://{BUCKET}/{prefix}", tmp_path)
    finally:
        server.failing.rate = 0.0
    caches = [f"{tmp_path / job}" for job in JOBS]
    folders = [f"{cache}/emo_ray_buckets/s3/{BUCKET}/{prefix}" for cache in caches]
    present = in_bucket(server, prefix, [*folders, f"s3://{BUCKET}/{prefix}", *caches])
    assert sorted(present) == sorted(on_disk)
    assert [name for name in on_disk if present[name] != on_disk[name]] == []
    assert (server.failing.failed > 50) == (rate > 0)
    assert not [key for key in server.objects() if re.match(rf"{prefix}/(train|tune)/|.*claims", key)]


if __name__ == "__main__":
    run_jobs(*sys.argv[1:])
