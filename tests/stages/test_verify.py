"""A store is read from end to end: every file that is cut is named, set aside when asked, and made again by its job."""

import json
import os
import pickle
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.train.v2._internal.constants import VALIDATE_STORAGE_MARKER_FILENAME

from emo_ray import cluster, durable, parquet, store
from emo_ray.cli import mending
from emo_ray.config import load, override
from emo_ray.data import shards
from emo_ray.locks import lock
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.checkpoint_files import SEEN
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.reports.front_page import PAGE as FRONT_PAGE
from emo_ray.stages.decoding.corpus import resolve_corpus
from emo_ray.stages.decoding.shard_plan import decode_tasks
from emo_ray.stages.encoding.external_tables import BAD_ROWS
from emo_ray.stages.prepare import prepare
from emo_ray.stages.status import status
from emo_ray.stages.store_files import damage_of
from emo_ray.stages.verify import verify

CUTS = {"empty": lambda content: b"", "half": lambda content: content[: len(content) // 2]}


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


def config_in(tmp_path):
    """A corpus of transcripts, which take no Ray to decode."""
    rows = [f"{i},the words of clip {i},{'happy' if i % 2 else 'sad'},speaker {i % 6}" for i in range(24)]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,text,label,speaker", *rows]) + "\n")
    changes = {"data.manifest": str(tmp_path / "clips.csv"), "tables.text": [str(tmp_path / "text.parquet")]}
    parquet.write(
        tmp_path / "text.parquet",
        pa.table({"clip_id": [str(i) for i in range(24)], "feature": [[float(i), 1.0] for i in range(24)]}),
    )
    return load("mini", {**changes, "media.clips_per_part": 8, "store.root": str(tmp_path / "store")})


def prepared(config):
    """What jobs/prepare.py makes, decoded in this process."""

    def job():
        for task in decode_tasks(resolve_corpus(config)[1]).values():
            shards.write_part(*pickle.loads(task))
        return prepare(config)

    return mending(job, root_of(config))


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    """A config whose corpus is prepared, and what jobs/prepare.py said of it."""
    config = config_in(tmp_path_factory.mktemp("prepared"))
    return config, prepared(config)


@pytest.fixture
def a_copy(prepared_once, tmp_path):
    """The same with a store of its own, which was never damaged."""
    config, result = prepared_once
    shutil.copytree(config.store.root, tmp_path / "store")
    return override(config, {"store.root": str(tmp_path / "store")}), result


def root_of(config):
    return cluster.store_root(config)


def found(config, mend=False):
    """What verify says of a store: its exit status, and the damaged files by name."""
    result = verify(override(config, {"verify.mend": mend}))
    return result.status, {loss["path"] for loss in result.content["damaged"]}


NAMES = {
    "part": "shards/*/part-*.parquet",
    "settings": "shards/*/settings.txt",
    "manifest": "prepared/*/manifest.parquet",
    "ledger": "prepared/*/ledger.parquet",
    "meta": "prepared/*/meta.json",
    "list": "prepared/*/bad_media.csv",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", NAMES)
def test_each_file_of_a_prepared_corpus_that_is_cut_is_named_and_made_again(a_copy, name, cut):
    config, result = a_copy
    root, whole = root_of(config), contents(root_of(config))
    assert found(config) == (0, set())
    path = sorted(root.glob(NAMES[name]))[0]
    path.write_bytes(CUTS[cut](path.read_bytes()))
    assert found(config) == (2, {path.relative_to(root).as_posix()})
    assert found(config, mend=True) == (0, {path.relative_to(root).as_posix()})
    assert prepared(config).content == result.content
    assert found(config, mend=True) == (0, set())  # what was set aside goes once it is made again
    assert contents(root) == whole


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"part"}))  # a finished corpus is not read
def test_a_job_that_meets_a_file_that_is_cut_makes_it_again(a_copy, name, cut):
    config, result = a_copy
    root, whole = root_of(config), contents(root_of(config))
    path = sorted(root.glob(NAMES[name]))[0]
    path.write_bytes(CUTS[cut](path.read_bytes()))
    again = prepared(config)
    assert again.content == result.content
    assert {name: content for name, content in contents(root).items() if not name.endswith(store.DAMAGED)} == whole


def contents(root):
    """The content of every file of a store by name, without locks."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_a_part_under_another_name_and_one_with_other_rows_are_named(config):
    prepared(config)
    root = root_of(config)
    first, second = sorted(root.glob("shards/*/part-*.parquet"))[:2]
    parquet.write(root / "features/text-1" / first.name, pa.table({"clip_id": ["another"]}))
    parquet.write(root / "features/text-1" / second.name, parquet.read(second, columns=["clip_id"]))
    assert found(config) == (2, {f"features/text-1/{first.name}"})
    shutil.copy(first, second)
    assert second.relative_to(root).as_posix() in found(config)[1]


def test_a_checkpoint_is_held_to_its_digests_and_also_one_that_an_earlier_version_made(config):
    folder = root_of(config) / "checkpoints/model-1"
    torch.manual_seed(0)
    head = FusionHead(config.fusion, {"text": torch.stack([torch.zeros(3), torch.ones(3)])}, 2)

    def fill(temporary):
        checkpoint.write(temporary, trained_state(head), config, ("happy", "sad"), "card")
        durable.write_text(temporary / SEEN, "{}")
        return checkpoint_files.digests(temporary)

    store.artefact(folder, {"kind": "checkpoint"}, fill)
    assert found(config) == (0, set())
    for path in sorted(set(folder.iterdir()) - {folder / store.META}):
        content = path.read_bytes()
        for cut in CUTS.values():
            path.write_bytes(cut(content))
            assert found(config) == (2, {f"checkpoints/model-1/{path.name}"})
        path.write_bytes(content)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("root: ", "root: /elsewhere"))  # models move
    assert found(config) == (0, set())
    durable.write_text(folder / store.META, json.dumps(store.read_meta(folder)))  # as of an earlier version
    (folder / "labels.json").write_text('["sad", "happy"]')
    assert found(config) == (2, {"checkpoints/model-1/labels.json"})


def test_hard_links_are_set_aside_together(config):
    root = root_of(config)
    part, folder = root / "predictions/parts-1/part-0123456789abcdef.parquet", root / "predictions/2"
    parquet.write(part, pa.table({"clip_id": ["a"], "p": [0.5]}))
    store.artefact(folder, {}, lambda temporary: durable.link_or_copy(part, temporary / part.name))
    part.write_bytes(part.read_bytes()[:-20])
    links = {path.relative_to(root).as_posix() for path in (part, folder / part.name)}
    assert found(config) == (2, links)
    assert found(config, mend=True) == (0, links)
    assert not part.exists()
    assert not store.is_complete(folder)


def test_what_cannot_be_made_again_is_said(config):
    media = root_of(config).parent / "gone.wav"
    clips = config.data.manifest
    with open(clips, encoding="utf-8") as stream:
        rows = [line.rstrip("\n") for line in stream]
    media.write_bytes(b"RIFF")
    with open(clips, "w", encoding="utf-8") as stream:
        stream.writelines(f"{row},{'audio' if i == 0 else media if i == 1 else ''}\n" for i, row in enumerate(rows))
    config = override(config, {"tables.text": []})
    prepared(config)
    root = root_of(config)
    lost = next(p for p in root.glob("shards/*/part-*") if "0" in parquet.read(p)["clip_id"].to_pylist())
    lost.write_bytes(b"PAR1")
    assert "lost" in verify(config).content["damaged"][0]
    assert verify(config).content["damaged"][0]["lost"] == ""
    media.unlink()
    result = verify(override(config, {"verify.mend": True}))
    assert "gone.wav" in result.content["damaged"][0]["lost"]
    assert result.status == 2


def test_answers_that_are_whole_are_kept(config):
    path = root_of(config) / "readings/1/answers-1.jsonl"
    durable.append_lines(path, ['{"digest": "a"}', '{"digest": "b"'])
    assert found(config) == (2, {"readings/1/answers-1.jsonl"})
    assert found(config, mend=True)[0] == 2  # they were paid for
    assert path.read_text() == '{"digest": "a"}\n'
    assert found(config) == (0, set())
    with path.open("a") as stream:
        stream.write('{"an answer of a process that was ki')
    assert found(config) == (0, set())


def test_what_killed_jobs_left_is_removed_where_nobody_can_be_at_work(config):
    prepared(config)
    root = root_of(config)
    abandoned, held = root / "reports" / f".1-{'0' * 32}", root / "reports" / f".2-{'1' * 32}"
    old, young = (root / "shards" / f".part-{i}.parquet.{'2' * 32}.tmp" for i in range(2))
    for path in (abandoned / "part", held / "part", old, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    for path in (old, abandoned):
        os.utime(path, (time.time() - 10_000,) * 2)
    with lock(root / "reports/.2.lock"):
        assert found(config, mend=True) == (0, set())
    assert [path.exists() for path in (abandoned, held, old, young)] == [False, True, False, True]


def test_a_store_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(ValueError, match=r"store\.root: .*nowhere"):
        verify(load("mini", {"store.root": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("mend", [False, True])
def test_a_folder_that_is_no_store_is_neither_called_whole_nor_mended(tmp_path, mend):
    """A corpus that is taken for a store: what verify calls damaged there would be renamed."""
    clip = tmp_path / "happy" / "clip.json"
    clip.parent.mkdir()
    clip.write_text("{no json")
    with pytest.raises(ValueError, match=r"store\.root: .*with happy in it.*logs"):
        verify(load("mini", {"store.root": str(tmp_path), "verify.mend": mend}))
    with pytest.raises(ValueError, match=r"store\.root: .*with happy in it.*logs"):
        status(load("mini", {"store.root": str(tmp_path)}))
    assert clip.read_text() == "{no json"


def test_what_is_not_finished_is_counted_and_no_damage(config):
    root = root_of(config)
    for name in ("train/fusion-1/metrics.jsonl", "checkpoints/model-1/README.md"):
        durable.write_text(root / name, "{}\n")
    np.savez(root / "other.npz", np.zeros(1))
    durable.write_text(root / "train/fusion-1/ray" / VALIDATE_STORAGE_MARKER_FILENAME, "")  # as a killed job leaves it
    result = verify(config)
    assert result.status == 0
    assert result.content["kinds"]["train"]["unfinished"] == result.content["kinds"]["checkpoints"]["unfinished"] == 1


KINDS = {
    "corpus": "corpora/*/clips/*.mp4",
    "shard": "shards/*/part-*.parquet",
    "ledger": "prepared/*/ledger.parquet",
    "corpus meta": "prepared/*/meta.json",
    "sheet": "prepared/*/contact_sheet.png",
    "features": "features/video-*/part-*.parquet",
    "features meta": "features/audio-*/meta.json",
    "weights": "checkpoints/model-*/model.safetensors",
    "EmoVCLIP": "checkpoints/emovclip-*/model.safetensors",
    "labels": "checkpoints/model-*/labels.json",
    "seen": "checkpoints/model-*/seen_clips.json",
    "config": "checkpoints/model-*/config.yaml",
    "model meta": "checkpoints/model-*/meta.json",
    "logged": "checkpoints/.model-*.tracked.json",
    "report": "reports/*/report.json",
    "page": "reports/*/report.html",
    "predictions": "reports/*/predictions.parquet",
}


def test_every_file_of_a_whole_job_that_is_cut_is_named(evaluated, tiny_config, tmp_path):
    root = shutil.copytree(root_of(tiny_config), tmp_path / "store")
    assert found(override(tiny_config, {"store.root": str(root)})) == (0, set())
    unnoticed = []
    for path in (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"):
        content = path.read_bytes()
        for cut in CUTS.values():
            path.write_bytes(cut(content))
            if content and damage_of(path, root) is None:
                unnoticed.append(path.relative_to(root))
        path.write_bytes(content)
    # The server's copies, states of trainings that other tests stopped, what each use of tables or job makes anew, and
    # logs, which a killed job ends anywhere.
    fresh = ("mlartifacts", "train", "logs", FRONT_PAGE)
    excused = [path for path in unnoticed if path.parts[0] in fresh or path.name == BAD_ROWS]
    assert unnoticed == excused


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", KINDS)
def test_a_whole_job_makes_again_what_is_cut(evaluated, tiny_config, tmp_path, name, cut):
    from emo_ray.stages.evaluate import evaluate

    root = shutil.copytree(root_of(tiny_config), tmp_path / "store")
    config = override(tiny_config, {"store.root": str(root)})
    path = sorted(root.glob(KINDS[name]))[0]
    path.write_bytes(CUTS[cut](path.read_bytes()))

    def job():
        return evaluate(config)

    assert mending(job, root).content["subsets"] == evaluated.content["subsets"]
    found(config, mend=True)
    assert mending(job, root).content["subsets"] == evaluated.content["subsets"]
    assert found(config, mend=True) == (0, set())
