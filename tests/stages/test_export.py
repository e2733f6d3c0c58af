"""An exported folder works by itself: in Python, in MLflow, and as ONNX."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml

import emo_ray
from emo_ray import tracking
from emo_ray.config import override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.models import checkpoint
from emo_ray.models.onnx_export import HeadOfFeatures
from emo_ray.stages.export import export

ROOT = Path(__file__).parents[2]
NAME = "emotions"


@pytest.fixture(scope="module")
def config(evaluated, tiny_config):
    from emo_ray.stages.train import train_model

    path, _ = train_model(tiny_config)
    return override(tiny_config, {"checkpoint": str(path), "tracking.register": NAME, "export.licence": "cc-by-nc-4.0"})


@pytest.fixture(scope="module")
def folder(config):
    return export(config).path


@pytest.fixture(scope="module")
def rows(config):
    """Clips as MLflow takes them: three with video, one of words alone, and one of which nothing can be used."""
    videos = [str(path) for path in sorted((Path(config.store.root) / "corpora").rglob("*.mp4"))[:3]]
    return pd.DataFrame({"video": [*videos, None, str(ROOT / "README.md")], "text": ["a day", None, None, "no", None]})


def clips_of(rows):
    """Rows of a table as clips; what they lack is NaN or None there."""
    return [{k: v for k, v in row.items() if isinstance(v, str)} for row in rows.to_dict("records")]


def test_a_folder_names_no_place_of_its_past(folder, config):
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["emovclip"]["clip"] == "encoders/tiny_clip.json"
    assert (folder / settings["emovclip"]["clip"]).is_file()
    for path in folder.rglob("*.yaml"):
        assert str(Path(config.store.root).parent) not in path.read_text()


def test_the_card_has_front_matter_and_the_newest_scores(folder):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-nc-4.0"
    assert "| video + audio + text |" in text.replace("**", "")
    assert "must not be used to judge individuals" in " ".join(text.split())


def test_mlflow_loads_it_and_its_champion(folder, config, rows):
    expected = [
        emo_ray.load(folder).predict({name: value for name, value in row.items() if isinstance(value, str)})
        for row in rows.to_dict("records")
    ]
    uri = tracking.uri(config, Path(config.store.root))
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias(NAME, tracking.ALIAS)
    for model in (str(folder), version.source):
        answers = mlflow.pyfunc.load_model(model).predict(rows)
        for said, (_, row) in zip(expected, answers.iterrows(), strict=True):
            assert said.label == (None if pd.isna(row["label"]) else row["label"])
            assert said.statuses == {name: row[f"{name}_status"] for name in MODALITIES}
            for label, share in said.probabilities.items():
                assert row[f"p_{label}"] == pytest.approx(share, abs=1e-5)
    run = client.get_run(version.run_id)
    assert run.info.run_name.split()[-1] in Path(config.checkpoint).name  # the beginning of its digest
    export(config)  # again
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1


def test_the_head_as_onnx_gives_the_same_probabilities(folder, config):
    path = Path(config.checkpoint)
    module = HeadOfFeatures(checkpoint.load_fusion(path), emo_ray.load(folder).temperature).eval()
    session = onnxruntime.InferenceSession(folder / "onnx/head.onnx")
    widths = {each.name: each.shape[1] for each in session.get_inputs()}
    generator = torch.Generator().manual_seed(0)
    for clips in (1, 7):
        features = [torch.randn(clips, widths[name], generator=generator) for name in module.names]
        present_BM = torch.rand(clips, len(MODALITIES), generator=generator) > 0.3
        with torch.no_grad():
            expected_BK = module(features, present_BM).numpy()
        inputs = {name: values.numpy() for name, values in zip(module.names, features, strict=True)}
        (actual_BK,) = session.run(None, inputs | {"present": present_BM.numpy()})
        np.testing.assert_allclose(actual_BK, expected_BK, atol=1e-4)


def test_the_video_side_as_onnx_gives_the_same_features(folder, config):
    model = checkpoint.load_emovclip(Path(config.checkpoint) / "emovclip")
    session = onnxruntime.InferenceSession(folder / "onnx/video.onnx")
    generator = torch.Generator().manual_seed(0)
    for clips in (1, 3):
        shape = (clips, *session.get_inputs()[0].shape[1:])
        frames_BTCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            expected_BD = model.encode_video(frames_BTCHW).numpy()
        (actual_BD,) = session.run(None, {"frames": frames_BTCHW.numpy()})
        np.testing.assert_allclose(actual_BD, expected_BD, atol=1e-4)


def test_export_needs_a_checkpoint(tiny_config):
    with pytest.raises(ValueError, match="checkpoint=FOLDER"):
        export(tiny_config)


@pytest.mark.slow
def test_mlflow_serves_it(folder, rows):
    clips = [
        {name: value for name, value in row.items() if isinstance(value, str)} for row in rows[:2].to_dict("records")
    ]
    expected = [said.label for said in emo_ray.load(folder).predict(clips)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow_command = Path(sys.executable).with_name("mlflow")
    command = [mlflow_command, "models", "serve", "-m", folder, "--env-manager", "local", "-h", "127.0.0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{mlflow_command.parent}:{os.environ['PATH']}"}
    server = subprocess.Popen([*command, "-p", str(port)], env=environment, start_new_session=True)
    try:
        body = json.dumps({"dataframe_split": json.loads(rows[:2].to_json(orient="split", index=False))}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"content-type": "application/json"}
        )
        deadline_s = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    answers = json.load(response)["predictions"]
                break
            except urllib.error.URLError:
                assert server.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.5)
        assert [row["label"] for row in answers] == expected
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)
