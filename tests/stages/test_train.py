"""train: a model is made once and tracked once; what cannot be trained is one clear message."""

import json
import shutil
from pathlib import Path

import pytest
import ray

from emo_ray import tracking
from emo_ray.config import override
from emo_ray.stages.train import train

pytestmark = pytest.mark.usefixtures("ray_session")


def checkpoints(config):
    folder = Path(config.store.root) / "checkpoints"
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if not p.name.startswith(".")}  # no locks


def test_a_second_run_trains_nothing(trained, tiny_config):
    before = checkpoints(tiny_config)
    assert train(tiny_config).path == trained.path
    assert checkpoints(tiny_config) == before


def test_mlflow_has_one_run_with_parameters_epochs_and_artifacts(trained, evaluated, tiny_config):
    from mlflow import MlflowClient

    root = Path(tiny_config.store.root)
    client = MlflowClient(tracking_uri=tracking.uri(tiny_config, root))
    experiment = client.get_experiment_by_name("emo_ray")
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`emo_ray.key` = '{trained.path.name.removeprefix('model-')}'"
    )
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert {"train.epochs", "fusion.hidden", "audio.encoder"} <= set(run.data.params)
    assert run.inputs.dataset_inputs[0].dataset.name == "synthetic"
    for phase in ("emovclip", "fusion"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, f"{phase}/train_loss")]
        assert steps == list(range(tiny_config.train.epochs))
    assert run.data.metrics["test/VAT/waf"] == pytest.approx(evaluated.content["subsets"]["VAT"]["waf"])
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names >= {"checkpoint", f"report-{evaluated.path.name}"}
    inside = {item.path for item in client.list_artifacts(run.info.run_id, "checkpoint")}
    assert "checkpoint/model.safetensors" in inside


def test_without_labelled_clips_there_is_nothing_to_train_on(tiny_config, media_files, tmp_path):
    table = tmp_path / "clips.jsonl"
    table.write_text(json.dumps({"video": str(media_files["clip"]), "text": "hm"}))
    with pytest.raises(ValueError, match="at least two"):
        train(override(tiny_config, {"data.manifest": str(table), "store.root": str(tmp_path / "store")}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.use_gpu": "yes", "train.num_workers": 4}, r"4: .*train\.num_workers"),
        ({"checkpoint": "somewhere"}, "checkpoint=somewhere"),
    ],
)
def test_what_cannot_be_had_is_one_clear_message(tiny_config, changes, message):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has GPUs")
    with pytest.raises(ValueError, match=message):
        train(override(tiny_config, {"fusion.hidden": 8, **changes}))


def test_a_corpus_without_labels_is_refused_before_it_is_decoded(tiny_config, media_files, tmp_path):
    folder = tmp_path / "clips"
    for name in ("happy/a.mp4", "sad/b.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(media_files["clip"], folder / name)
    config = override(tiny_config, {"data.manifest": str(folder), "store.root": str(tmp_path / "store")})
    with pytest.raises(ValueError, match=r"found 0 label\(s\).*in the folder.*data\.corpus=class_folders"):
        train(config)
    assert list((tmp_path / "store").rglob("part-*.parquet")) == []
