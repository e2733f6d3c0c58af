"""What tasks, actors and workers ask for on clusters of any size, and that a cluster that grows is followed."""

import os
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from fresh_process import answers_of
from hypothesis import given
from hypothesis import strategies as st

from emo_ray import cluster, resources
from emo_ray.config import load

WORKERS = st.integers(1, 500)


class Machine(NamedTuple):
    """What a machine of a cluster brings."""

    cpus: int
    gpus: int
    is_alive: bool = True


ANY = st.lists(st.builds(Machine, st.integers(0, 64), st.integers(0, 8), st.booleans()), max_size=5)
CLUSTERS = st.sampled_from([[], [Machine(1, 0)], [Machine(2, 0)], [Machine(3, 0), Machine(0, 2)]]) | ANY


@contextmanager
def cluster_of(machines):
    """Ray that answers as in a cluster of such machines, which cannot grow: its living ones, their CPUs and GPUs."""
    import ray

    alive = [machine for machine in machines if machine.is_alive]
    amounts = {"CPU": sum(m.cpus for m in alive), "GPU": sum(m.gpus for m in alive), "memory": 1e9}
    nodes = [{"Alive": m.is_alive, "Resources": {"CPU": float(m.cpus)} if m.cpus else {}} for m in machines]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "cluster_resources", lambda: {name: float(n) for name, n in amounts.items() if n})
        patch.setattr(ray, "nodes", lambda: nodes)
        patch.setattr(ray, "init", lambda **options: SimpleNamespace(dashboard_url=None))
        yield alive, amounts["CPU"], amounts["GPU"]


@given(machines=CLUSTERS)
def test_resources_are_those_of_all_machines_that_live(machines):
    with cluster_of(machines) as (alive, cpus, gpus):
        assert (cluster.cpus(), cluster.gpus(), cluster.object_store_bytes()) == (cpus, gpus, 0)
        assert cluster.fewest_cpus() == min((m.cpus for m in alive if m.cpus), default=0)


@given(machines=CLUSTERS, number=WORKERS)
def test_train_workers_leave_a_data_task_its_cpus(machines, number):
    with cluster_of(machines) as (_, total, _):
        cpus, task_cpus = resources.train_worker_cpus(number), resources.task_cpus()
    assert 0 < cpus <= 1
    if total:
        assert number * cpus <= total / 2
        assert total - number * cpus >= task_cpus
    if total >= 2 * number or not total:
        assert cpus == 1  # a whole one where there are enough


@given(machines=CLUSTERS)
def test_a_train_worker_that_is_alone_on_its_machine_leaves_no_room_for_another(machines):
    with cluster_of(machines):
        cpus, fewest = resources.lone_worker_cpus(), cluster.fewest_cpus()
    assert cpus >= 1
    assert 2 * cpus > fewest


@given(machines=CLUSTERS)
def test_several_data_tasks_run_at_once(machines):
    with cluster_of(machines) as (_, total, _):
        assert not total or total // resources.task_cpus() >= 2


@given(machines=CLUSTERS, parts=st.integers(1, 1000), gpu=st.sampled_from([0, 1]))
def test_there_are_no_more_actors_than_parts_or_cores_or_gpus(machines, parts, gpu):
    with cluster_of(machines) as (_, cpus, gpus):
        places = gpus if gpu else min(cpus, os.cpu_count())
        assert resources.actor_count(parts, gpu) == max(1, min(parts, places))


@given(machines=CLUSTERS, number=st.integers(1, 50))
def test_gpus_are_used_where_there_are_enough_and_an_error_where_they_are_demanded_and_absent(machines, number):
    auto, no, yes = (load("mini", {"train.use_gpu": choice}) for choice in ("auto", "no", "yes"))
    with cluster_of(machines) as (_, _, gpus):
        assert resources.use_gpu(auto, number) == (gpus >= number)
        assert not resources.use_gpu(no, number)
        if gpus >= number:
            assert resources.use_gpu(yes, number)
        else:
            with pytest.raises(
                ValueError, match=rf"train\.use_gpu=yes.* found {gpus} .*expected {number}.*num_workers"
            ):
                resources.use_gpu(yes, number)


def test_ray_answers_for_the_cluster_and_another_connection_changes_nothing(ray_session, monkeypatch):
    """But the settings of Ray Data, which may have been imported before anybody said what they should be."""
    import ray.data

    context, nodes = ray.data.DataContext.get_current(), ray.nodes()
    monkeypatch.setenv("RAY_DATA_USE_DATASOURCE_V2", cluster._ENVIRONMENT["RAY_DATA_USE_DATASOURCE_V2"])
    chatty = ("use_datasource_v2", "enable_progress_bars", "print_on_execution_start")
    for name in chatty:
        monkeypatch.setattr(context, name, True)
    cluster.connect(load("mini"), dashboard=True)  # which only who starts a cluster can have
    assert [getattr(context, name) for name in chatty] == [False] * 3
    assert [node["NodeID"] for node in ray.nodes()] == [node["NodeID"] for node in nodes]
    assert (cluster.cpus(), cluster.fewest_cpus(), cluster.gpus()) == (4, 4, nodes[0]["Resources"].get("GPU", 0))
    assert cluster.object_store_bytes() == 256 * 2**20
    assert not cluster.has_dashboard()
    assert cluster._session == []  # it is not this cluster's to end


SIZES = ((0, 0), (1, 0), (3, 0), (6, 2))  # CPUs and GPUs of one cluster, as nodes join it
# Nodes only claim their CPUs and GPUs, as nodes of any machine may. Ray Data is imported first, as stages import it.
GROW = """
import ray.data
from ray.cluster_utils import Cluster
from emo_ray import cluster
from emo_ray.config import load

quiet = {"include_dashboard": False, "include_log_monitor": False}  # nobody looks at them, and each takes a process
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **quiet})
config = load("mini", {"cluster.address": nodes.address})
cluster.connect(config)
cluster.connect(config)
before = 0, 0
for size in SIZES:
    if size != before:
        nodes.add_node(num_cpus=size[0] - before[0], num_gpus=size[1] - before[1], **quiet)
        nodes.wait_for_nodes()
    before = size
    answers.append({
        "size": [cluster.cpus(), cluster.gpus()], "bytes": cluster.object_store_bytes(),
        "fewest": cluster.fewest_cpus(), "nodes": len(ray.nodes()), "dashboard": cluster.has_dashboard(),
        "v2": ray.data.DataContext.get_current().use_datasource_v2,
        "bars": ray.data.DataContext.get_current().enable_progress_bars,
    })
"""


@pytest.mark.slow  # five raylets take half a minute
def test_a_cluster_that_grows_is_followed(tmp_path):
    workers = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}  # none has anything to do
    grown = answers_of(f"SIZES = {SIZES}\n{GROW}", tmp_path, RAY_AUTH_MODE="disabled", **workers)
    assert [tuple(answer["size"]) for answer in grown] == list(SIZES)
    assert [answer["fewest"] for answer in grown] == [0, 1, 1, 1]
    memory = [answer["bytes"] for answer in grown]
    assert memory == sorted(set(memory))
    assert [answer["nodes"] for answer in grown] == list(range(1, len(SIZES) + 1))  # a second `connect` adds none
    assert not any(answer["dashboard"] or answer["v2"] or answer["bars"] for answer in grown)


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
