"""Context through the stages: every stage shows a head the same neighbours, and none of another split."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conversations import conversations

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.inference.classifier import TOGETHER
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.crossvalidate import crossvalidate
from emo_ray.stages.evaluate import PREDICTIONS, evaluate
from emo_ray.stages.fitting.phases import feature_rows, fusion_job
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.predict import predict
from emo_ray.stages.pseudo_label import REFUSED, pseudo_label
from emo_ray.stages.train import train_model
from emo_ray.stages.tune import tune


@pytest.fixture(scope="module")
def talking(ray_session, tiny_config, tmp_path_factory):
    """A corpus whose classes depend on the turn before, in which some turns have no label; its config."""
    folder = tmp_path_factory.mktemp("talking")
    clips, features = conversations("before", 30, 0, noise=1.0)
    table = manifest.SCHEMA.empty_table().from_pylist(
        [
            {"clip_id": c.clip_id, "speaker": c.speaker, "dialogue": c.dialogue, "turn": c.turn}
            | {"label": None if i % 9 == 4 else c.label}
            for i, c in enumerate(clips)
        ]
    )
    pq.write_table(table, folder / "clips.parquet")
    for name, rows in features.items():
        np.savez(folder / f"{name}.npz", **{clip.clip_id: row for clip, row in zip(clips, rows, strict=True)})
    keys = {f"tables.{name}": str(folder / f"{name}.npz") for name in features}
    keys |= {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    keys |= {"tracking.enabled": False, "train.epochs": 6, "media.clips_per_part": 64, "train.heads": 1}
    keys |= {"fusion.hidden": 32, "fusion.passes_per_epoch": 5, "fusion.lr": 3e-3, "fusion.context.before": 1}
    keys["fusion.batch_size"] = 64
    return override(tiny_config, keys)


def test_a_model_sees_the_same_neighbours_wherever_it_is_used(talking):
    report = evaluate(talking)
    assert report.content["subsets"]["VAT"]["accuracy"] > 0.6  # chance is 0.25
    judged = pq.read_table(report.path / PREDICTIONS)
    path, _ = train_model(talking)
    expected = dict(zip(judged["clip_id"].to_pylist(), judged["p_VAT"].to_pylist(), strict=True))

    def predicted(**changes):
        parts = predict(override(talking, {"checkpoint": str(path), **changes})).path.glob("part-*.parquet")
        table = pa.concat_tables(map(pq.read_table, parts))
        rows = dict(zip(table["clip_id"].to_pylist(), table[TOGETHER].to_pylist(), strict=True))
        return [rows[clip_id] for clip_id in expected]

    np.testing.assert_allclose(predicted(), list(expected.values()), atol=1e-5)
    alone = predicted(**{"data.columns": {"dialogue": None}})  # no dialogue, and so no neighbours
    assert np.isfinite(alone).all()
    assert np.abs(np.array(alone) - list(expected.values())).max() > 0.1


def test_workers_of_ray_train_get_the_neighbours_by_reference(talking, ray_session):
    plan = resolve_training(talking, open_corpus(talking))
    features = feature_rows(talking, plan, plan.clips.all_clips)
    job, tables = fusion_job(talking, plan, features)
    pickled = ray_session.cloudpickle.dumps(job.collate)
    here, there = (
        collate(tables["train"]).context for collate in (job.collate, ray_session.cloudpickle.loads(pickled))
    )
    assert len(pickled) < features.nbytes / 4
    assert torch.equal(here.place_BN, there.place_BN)
    for name, values_CD in here.clips.features.items():
        assert torch.equal(values_CD, there.clips.features[name])


def test_pseudo_labels_are_refused_where_the_dialogue_is_judged(talking):
    path, corpus = train_model(talking)
    labels = pseudo_label(override(talking, {"checkpoint": str(path)}))
    clips = corpus.prepared.clips
    judged = {clip.dialogue: clip.split for clip in clips if clip.split in ("validation", "test")}
    refused = dict(line.split(",", 1) for line in (labels.path / REFUSED).read_text().splitlines()[1:])
    expected = {clip.clip_id for clip in clips if clip.split == "unlabelled" and clip.dialogue in judged}
    assert refused.keys() == expected
    assert all(reason in {"speaker in test", "speaker in validation"} for reason in refused.values())


def test_folds_have_context_too(talking):
    assert crossvalidate(override(talking, {"data.folds": 3})).content["subsets"]["VAT"]["accuracy"] > 0.6


@pytest.mark.slow  # the processes of a sweep take ten seconds to start; stacked heads have context in training/
def test_sweeps_have_context_too(talking):
    space = {"fusion.context.before": {"choice": [0, 1]}, "fusion.context.after": {"choice": [0]}}
    sweep = {"tune.trials": 4, "tune.objective": "VAT/accuracy", "tune.space": space, "tune.search": "random"}
    content = tune(override(talking, {**sweep, "fusion.context.before": 0})).content
    values = {trial["params"]["fusion.context.before"]: trial["value"] for trial in content["trials"]}
    assert values[1] > 0.6
    assert content["bulk"]
