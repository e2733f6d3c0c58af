"""What tasks, actors and workers ask for on clusters of several sizes, as nodes join them."""

import os

import pytest
from fresh_process import answers_of
from hypothesis import given
from hypothesis import strategies as st

from emo_ray import resources
from emo_ray.config import load

SIZES = ((0, 0), (1, 0), (3, 0), (6, 2))  # CPUs and GPUs of one cluster, as nodes join it
WORKERS = (1, 2, 3, 4, 7, 60)
PARTS = (1, 3, 500)
# Nodes only claim their CPUs and GPUs, as nodes of any machine may. Ray Data is imported first, as stages import it.
GROW = """
import ray.data
from ray.cluster_utils import Cluster
from emo_ray import cluster, resources
from emo_ray.config import load

quiet = {"include_dashboard": False, "include_log_monitor": False}  # nobody looks at them, and each takes a process
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **quiet})
config = load("mini", {"cluster.address": nodes.address})
cluster.connect(config)
cluster.connect(config)

def use_gpu(choice, processes):
    try:
        return resources.use_gpu(load("mini", {"train.use_gpu": choice}), processes)
    except ValueError as error:
        return str(error)

before = 0, 0
for size in SIZES:
    if size != before:
        nodes.add_node(num_cpus=size[0] - before[0], num_gpus=size[1] - before[1], **quiet)
        nodes.wait_for_nodes()
    before = size
    answers.append({
        "cpus": cluster.cpus(), "gpus": cluster.gpus(), "bytes": cluster.object_store_bytes(),
        "task": resources.task_cpus(), "workers": [[n, resources.train_worker_cpus(n)] for n in WORKERS],
        "actors": [[n, gpu, resources.actor_count(n, gpu)] for n in PARTS for gpu in (0, 1)],
        "use_gpu": {choice: [[n, use_gpu(choice, n)] for n in (1, 2, 3)] for choice in ("yes", "no", "auto")},
        "nodes": len(ray.nodes()), "dashboard": cluster.has_dashboard(),
        "v2": ray.data.DataContext.get_current().use_datasource_v2,
        "bars": ray.data.DataContext.get_current().enable_progress_bars,
    })
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """What one cluster that grows answers at each of `SIZES`."""
    workers = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}  # none has anything to do
    values = f"SIZES, WORKERS, PARTS = {SIZES}, {WORKERS}, {PARTS}\n"
    return answers_of(values + GROW, tmp_path_factory.mktemp("grown"), RAY_AUTH_MODE="disabled", **workers)


def test_resources_are_the_clusters(grown):
    assert [(answer["cpus"], answer["gpus"]) for answer in grown] == list(SIZES)
    memory = [answer["bytes"] for answer in grown]
    assert memory == sorted(set(memory))
    assert [answer["nodes"] for answer in grown] == list(range(1, len(SIZES) + 1))  # a second `connect` adds none
    assert not any(answer["dashboard"] for answer in grown)


def test_settings_of_ray_data_take_effect_although_it_was_imported_first(grown):
    assert not any(answer["v2"] or answer["bars"] for answer in grown)


def test_train_workers_leave_a_data_task_its_cpus(grown):
    for answer in grown:
        for number, cpus in answer["workers"]:
            assert 0 < cpus <= 1
            if answer["cpus"]:
                assert number * cpus <= answer["cpus"] / 2
                assert answer["cpus"] - number * cpus >= answer["task"]
            else:
                assert cpus == 1


def test_train_workers_get_a_whole_cpu_where_there_are_enough(grown):
    for answer in grown:
        for number, cpus in answer["workers"]:
            if answer["cpus"] >= 2 * number:
                assert cpus == 1


def test_several_data_tasks_run_at_once(grown):
    assert all(answer["cpus"] // answer["task"] >= 2 for answer in grown if answer["cpus"])


def test_there_are_no_more_actors_than_parts_or_cores_or_gpus(grown):
    for answer in grown:
        for parts, on_gpu, actors in answer["actors"]:
            places = answer["gpus"] if on_gpu else min(answer["cpus"], os.cpu_count())
            assert actors == max(1, min(parts, places))


def test_gpus_are_used_where_there_are_enough(grown):
    for answer in grown:
        for number, used in answer["use_gpu"]["auto"]:
            assert used == (answer["gpus"] >= number)
        assert not any(used for _, used in answer["use_gpu"]["no"])


def test_gpus_that_are_demanded_and_absent_are_an_error(grown):
    for answer in grown:
        for number, used in answer["use_gpu"]["yes"]:
            if answer["gpus"] >= number:
                assert used is True
            else:
                for word in ("train.use_gpu=yes", f"found {answer['gpus']:g}", f"expected {number}", "num_workers"):
                    assert word in used


@given(cpus=st.floats(0, 256))
def test_a_process_has_a_thread_for_each_whole_cpu_and_at_least_one(cpus):
    threads = resources.usable_threads(cpus)
    assert threads >= 1
    assert threads == 1 or threads <= cpus < threads + 1


@pytest.fixture
def gpus(monkeypatch):
    """Let this process take its cluster for one of 16 CPUs and 4 GPUs that does not grow."""
    monkeypatch.setattr(resources, "gpus", lambda: 4.0)
    monkeypatch.setattr(resources, "cpus", lambda: 16.0)
    monkeypatch.setattr(resources, "may_grow", lambda: False)
    monkeypatch.setattr(resources, "fewest_cpus", lambda: 4.0)


def test_training_that_may_shrink_asks_for_a_range_of_workers(gpus):
    fixed = resources.train_scaling(load("mini", {"train.num_workers": 4}))
    elastic = resources.train_scaling(load("mini", {"train.num_workers": 4, "train.min_workers": 4}))
    assert (fixed["num_workers"], fixed["placement_strategy"], elastic) == (4, "PACK", fixed)
    settings = {"train.num_workers": 8, "train.min_workers": 4, "train.use_gpu": "yes", "train.placement": "spread"}
    sizes = {"emovclip.batch_size": 840, "fusion.batch_size": 840}
    scaling = resources.train_scaling(load("mini", {**settings, **sizes}))
    assert (scaling["num_workers"], scaling["use_gpu"], scaling["placement_strategy"]) == ((4, 8), True, "SPREAD")
    assert scaling["resources_per_worker"] == {"CPU": 1.0, "GPU": 1}
    scaling = resources.train_scaling(load("mini", {**settings, **sizes, "train.use_gpu": "no"}))
    assert 2 < scaling["resources_per_worker"]["CPU"] <= 3  # no second one fits on a machine, a data task does


def test_no_more_data_tasks_run_at_once_than_this_machine_has_cores(gpus, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert resources.task_count(load("mini"), 500) == min(16, os.cpu_count())
    assert resources.task_count(load("mini"), 1) == 1
    assert resources.task_count(load("mini", {"cluster.address": "auto"}), 500) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.num_workers": 2, "train.min_workers": 3}, "train.min_workers=3"),
        ({"train.num_workers": 4, "train.min_workers": 2}, "expected a multiple of 3"),
    ],
)
def test_the_batch_of_a_step_stays_as_large_with_any_number_of_workers(changes, message):
    with pytest.raises(ValueError, match=message):
        load("mini", changes)


def test_encoders_may_share_a_gpu_and_gpus_may_be_of_one_kind(gpus):
    config = load("mini", {"cluster.gpu_share": 0.5, "cluster.gpu_type": "L4"})
    kind = {"ray.io/accelerator-type": "L4"}
    requests = resources.actor_resources(config)
    assert (requests["num_gpus"], requests["label_selector"]) == (0.5, kind)
    assert resources.actor_count(100, requests["num_gpus"]) == 8
    assert resources.train_scaling(config)["label_selector"] == kind
    without = load("mini", {"cluster.gpu_share": 0.5, "cluster.gpu_type": "L4", "train.use_gpu": "no"})
    assert resources.actor_resources(without)["num_gpus"] == 0
    assert "label_selector" not in resources.actor_resources(without) | resources.train_scaling(without)
