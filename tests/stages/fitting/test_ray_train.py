"""Training on Ray: in workers or in this process to the same weights, whatever is killed on the way."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from emo_ray import resources, store
from emo_ray.config import override
from emo_ray.config.model_settings import SMALL
from emo_ray.models import checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.fitting import ray_train, video_job
from emo_ray.stages.fitting.epoch_log import METRICS, PROGRESS
from emo_ray.stages.fitting.phases import train_emovclip, train_phases
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.fitting.ray_train import LocalReporter, check_history
from emo_ray.stages.train import train
from emo_ray.training import loop

pytestmark = pytest.mark.usefixtures("ray_session")


def with_workers(config, count):
    """The config with workers of Ray Train, and a store of the decoded clips with features of their sound and text."""
    root = f"{config.store.root}-{uuid4().hex[:8]}"
    ignored = shutil.ignore_patterns("checkpoints", "train", "video-*", "reports", "mlflow*", "claims")
    shutil.copytree(config.store.root, root, ignore=ignored)
    return override(config, {"store.root": root, "train.num_workers": count})


def test_state_for_resuming_is_gone_when_the_result_is_stored(trained, tiny_config):
    assert not any((Path(tiny_config.store.root) / "train").iterdir())


def test_a_worker_of_ray_train_makes_what_one_process_makes(trained, tiny_config):
    """The same weights, bit for bit, and every epoch is reported."""
    config = with_workers(tiny_config, 1)
    plan = resolve_training(config, open_corpus(config))
    epochs_heard = []
    train_emovclip(config, plan, lambda phase, metrics: epochs_heard.append((phase, metrics["epoch"])))
    assert epochs_heard == [("emovclip", epoch) for epoch in range(config.train.epochs)]
    weights, reference = (load_file(p / checkpoint_files.WEIGHTS) for p in (plan.video_path, trained.path / "emovclip"))
    assert all(torch.equal(weights[name], reference[name]) for name in reference)


@pytest.mark.slow
def test_workers_of_ray_train_make_both_phases_as_one_process_does(trained, tiny_config, monkeypatch):
    """The same weights, bit for bit, and every epoch is reported. The store has the features of that EmoVCLIP."""
    monkeypatch.setattr(resources, "SMALL", 0)  # below it this process trains a head
    config = with_workers(tiny_config, 1)
    shutil.copytree(Path(tiny_config.store.root, "features"), Path(config.store.root, "features"), dirs_exist_ok=True)
    plan = resolve_training(config, open_corpus(config))
    epochs_heard = []
    train_phases(config, plan, lambda phase, metrics: epochs_heard.append((phase, metrics["epoch"])))
    assert epochs_heard == [(phase, epoch) for phase in ("emovclip", "fusion") for epoch in range(config.train.epochs)]
    assert plan.path.name == trained.path.name
    for folder in ("", checkpoint_files.EMOVCLIP):
        weights, reference = (load_file(path / folder / checkpoint_files.WEIGHTS) for path in (plan.path, trained.path))
        for name, value in reference.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=0, msg=name)


def test_a_head_on_few_clips_needs_no_worker(tiny_config, monkeypatch):
    """Unless there are more of them, a cluster, or workers that were asked for."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = override(tiny_config, {"train.num_workers": 1, "train.use_gpu": "no"})
    few, many = (SimpleNamespace(fusion=True, train_rows=SMALL - 1 + more) for more in (0, 1))
    assert ray_train._trains_here(few, config)
    assert not ray_train._trains_here(many, config)
    assert not ray_train._trains_here(SimpleNamespace(fusion=False, train_rows=5), config)
    assert not ray_train._trains_here(few, override(config, {"train.num_workers": 2}))
    assert not ray_train._trains_here(few, override(config, {"cluster.address": "10.0.0.1:6379"}))
    assert ray_train._trains_here(many, override(config, {"train.num_workers": 0}))


@pytest.mark.parametrize(("epochs", "is_whole"), [([0, 1, 2], True), ([0, 1], True), ([0], False), ([1, 2], False)])
def test_a_log_of_epochs_that_lacks_some_is_damaged_and_training_begins_anew(tmp_path, epochs, is_whole):
    (tmp_path / "run").mkdir()
    if is_whole:
        check_history(tmp_path / "run", {"epoch": 1}, [{"epoch": epoch} for epoch in epochs])
    else:
        with pytest.raises(store.DamagedFile, match=METRICS):
            check_history(tmp_path / "run", {"epoch": 1}, [{"epoch": epoch} for epoch in epochs])
    assert (tmp_path / "run").exists() == is_whole


def _timeless(metrics):
    return {k: v for k, v in metrics.items() if k not in loop.TIMES}


def test_a_run_that_is_stopped_inside_an_epoch_of_any_phase_goes_on_there(trained, tiny_config, monkeypatch):
    """To the bytes of an undisturbed run. The key of the checkpoint does not tell that states were saved."""
    changes = {"fusion.batch_size": 8, "train.joint_epochs": 1, "tracking.enabled": False}
    config = override(tiny_config, changes)
    undisturbed = train(with_workers(config, 0)).path
    config = override(with_workers(config, 0), {"train.save_every_steps": 2})
    steps_done, stops, progress = [], [("emovclip", 1, 4), ("fusion", 0, 3), ("joint", 0, 5)], LocalReporter.progress

    def stopped(reporter, epoch, step, steps):
        progress(reporter, epoch, step, steps)
        steps_done.append((reporter.folder.name.partition("-")[0], epoch, step))
        if steps_done[-1] in stops:
            stops.remove(steps_done[-1])
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalReporter, "progress", stopped)
    for _ in range(len(stops)):
        with pytest.raises(KeyboardInterrupt):
            train(config)
    again = train(config).path
    phases = {phase: [place for name, *place in steps_done if name == phase] for phase, *_ in steps_done}
    epochs = [[[epoch, step] for step in range(1, 6)] for epoch in range(2)]
    assert phases["emovclip"] == [*epochs[0], *epochs[1][:4], *epochs[1][2:]]
    assert phases["fusion"] == [*epochs[0][:3], *epochs[0][2:], *epochs[1]]
    assert phases["joint"] == [*epochs[0], *epochs[0][4:]]
    assert again.name == undisturbed.name
    for name in (checkpoint_files.WEIGHTS, f"{checkpoint_files.EMOVCLIP}/{checkpoint_files.WEIGHTS}"):
        assert (again / name).read_bytes() == (undisturbed / name).read_bytes()
    histories = [[_timeless(row) for row in store.read_meta(path)["history"]] for path in (again, undisturbed)]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_two_workers_that_are_killed_inside_an_epoch_go_on_there(trained, tiny_config):
    """With a state after each step: to the bytes of two workers that nothing disturbed."""
    config = override(tiny_config, {"emovclip.batch_size": 2, "tracking.enabled": False})
    paths, first_steps, done = [], [], threading.Event()

    def kill(folder: Path) -> None:
        """SIGKILL to both workers once three states are there; then note the first step that is told."""
        while not done.wait(0.02):
            if len(list(folder.glob("emovclip-*/ray/checkpoint_*"))) >= 3:
                (progress_file,) = folder.glob(f"emovclip-*/{PROGRESS}")
                for pid in _our_train_workers():
                    os.kill(pid, signal.SIGKILL)
                progress_file.unlink()
                while not (progress_file.exists() or done.wait(0.02)):
                    pass
                first_steps.append(json.loads(progress_file.read_text()))
                return

    for save_every_steps in (None, 1):
        config = override(with_workers(config, 2), {"train.save_every_steps": save_every_steps})
        plan = resolve_training(config, open_corpus(config))
        killer = threading.Thread(target=kill, args=[Path(config.store.root) / "train"])
        if save_every_steps:
            killer.start()
        try:
            train_emovclip(config, plan, lambda phase, metrics: None)
        finally:
            if save_every_steps:
                done.set()
                killer.join()
        paths.append(plan.video_path)
    ((epoch, step, _),) = first_steps
    assert epoch == 0
    assert step > 1
    assert paths[0].name == paths[1].name
    weights = [(path / checkpoint_files.WEIGHTS).read_bytes() for path in paths]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_as_it_should(trained, tiny_config, monkeypatch):
    """SIGKILL after the first epoch, with shards streamed in blocks of a part: the weights of an undisturbed run."""
    monkeypatch.setattr(video_job, "_KEPT_SHARE", 0)
    monkeypatch.setattr(video_job, "_BLOCK_BYTES", 1)
    config = override(with_workers(tiny_config, 1), {"emovclip.context_tokens": 8})
    train_folder, killed = Path(config.store.root) / "train", []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.02):
            metrics = [p for p in train_folder.glob(f"emovclip-*/{METRICS}") if p.stat().st_size]
            if metrics and (workers := _our_train_workers()):
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        again = train(config)
    finally:
        done.set()
        killer.join()
    assert killed
    history, reference = (store.read_meta(t.path / checkpoint_files.EMOVCLIP)["history"] for t in (again, trained))
    assert [row["epoch"] for row in history] == [row["epoch"] for row in reference]
    assert [_timeless(row) for row in history] == [_timeless(row) for row in reference]
    weights = [load_file(t.path / "emovclip" / checkpoint_files.WEIGHTS) for t in (again, trained)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    heads = [load_file(t.path / checkpoint_files.WEIGHTS) for t in (again, trained)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[1])


@pytest.mark.slow
def test_two_workers_train_one_model(tiny_config):
    config = override(tiny_config, {"train.num_workers": 2, "train.epochs": 1, "emovclip.micro_batch_size": 1})
    result = train(config)
    history = store.read_meta(result.path)["history"]
    assert len(history) == 1
    assert history[0]["train_clips"] == 36
    assert history[0]["val_n"] == 12


def _our_train_workers() -> list[int]:
    """Pids of the Train workers of this process's Ray: children of a raylet that is its child."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if "RayTrainWorker" in (folder / "cmdline").read_text() and _parent(_parent(folder.name)) == os.getpid():
                pids.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return pids


def _parent(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
