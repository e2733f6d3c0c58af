"""doctor: a row for each thing that a job needs, and an exit status; nothing is written and no Ray is started."""

import json
import socket
import sqlite3

import pytest

from emo_ray.config import load
from emo_ray.stages import machine
from emo_ray.stages.doctor import doctor


def rows_of(result):
    return {row["subject"]: row for row in result.content["checks"]}


@pytest.fixture
def mini(tmp_path):
    return {"store.root": str(tmp_path / "store"), "train.use_gpu": "no"}


def test_a_machine_that_runs_the_tests_can_run_mini_and_nothing_is_written(mini, tmp_path):
    result = doctor(load("mini", mini))
    rows = rows_of(result)
    assert set(rows) >= {
        "packages",
        "torch",
        "processor",
        "GPU",
        "FFmpeg",
        "MLflow",
        "shared memory",
        "ports",
        "memory",
    }
    assert rows["packages"]["state"] == rows["torch"]["state"] == rows["FFmpeg"]["state"] == "ok"
    assert rows["emovclip.weights"]["state"] == "ok"
    assert result.status == (2 if result.content["errors"] else 0)
    assert json.loads(json.dumps(result.content)) == result.content
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_says_what_it_needs_by_model_and_what_is_missing(mini, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = doctor(load("mer2024", {**mini, "train.use_gpu": "yes", "train.num_workers": 16}))
    rows = rows_of(result)
    assert result.status == 2
    assert "16.4 GB" in rows["text.encoder"]["finding"]
    assert rows["text.encoder"]["state"] == "error"  # the hub is offline in tests
    assert rows["text.encoder"]["advice"]
    assert rows["GPU"]["state"] == "error"
    assert "train.use_gpu=yes" in rows["GPU"]["finding"]
    assert "predicting with all of them" in rows["memory"]["finding"]
    assert any("text.encoder" in line for line in result.lines)


def test_wrong_paths_and_stand_ins_are_rows(mini, tmp_path):
    changes = {"tables.audio": ["gone.npz"], "data.manifest": str(tmp_path / "clips.csv")}
    rows = rows_of(doctor(load("mini", {**mini, **changes})))
    assert "gone.npz" in rows["paths"]["finding"]
    assert (rows["recipe"]["state"], "small" in rows["recipe"]["finding"]) == ("warning", True)


def test_a_database_of_another_mlflow_is_named(mini, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values ('0123')")
    config = load("mini", mini)
    found = machine._mlflow(config, store)
    assert (found.state, "0123" in found.finding, "mlflow db upgrade" in found.advice) == ("error", True, True)
    (store / "mlflow.db").write_text("no database" * 100)
    assert machine._mlflow(config, store).state == "error"


def test_servers_and_ports_are_asked(mini, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        address = {"tracking.uri": f"http://127.0.0.1:{port}"}
        assert machine._mlflow(load("mini", {**mini, **address}), tmp_path).state == "ok"
        assert f"{port} (a test)" in machine._ports({port: "a test"}).finding
    assert machine._mlflow(load("mini", {**mini, **address}), tmp_path).state == "error"
    assert machine._ports({port: "a test"}).state == "ok"


def test_a_full_disk_is_an_error_and_a_nearly_full_one_a_warning(tmp_path):
    states = [machine._room("disk", tmp_path, least_gb, "free some").state for least_gb in (0.0, 1e6, 1e9)]
    assert states == ["ok", "error", "error"]
    assert machine._room("disk", tmp_path, machine.shutil.disk_usage(tmp_path).free / 1e9 * 2, "").state == "warning"
