"""cluster.yaml: Ray accepts it, it opens nothing but SSH, and the settings that its comments advise exist."""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from emo_ray import resources
from emo_ray.config import load

ROOT = Path(__file__).parents[1]
FILE = ROOT / "cluster.yaml"
POOLS = ("cpu", "gpu")
COMMANDS = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def cluster():
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def valid(cluster):
    """The cluster file as Ray completes it. Raises what `ray up` would raise."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def commands(cluster):
    return [command for name in COMMANDS for command in cluster[name]]


def starts(cluster):
    return [c for c in commands(cluster) if "ray start" in c]


def strings(tree):
    if isinstance(tree, dict):
        return [text for key, value in tree.items() for text in (str(key), *strings(value))]
    if isinstance(tree, list):
        return [text for value in tree for text in strings(value)]
    return [str(tree)]


def test_ray_accepts_it(cluster):
    prepared = valid(cluster)
    assert prepared["provider"]["type"] == "aws"
    assert prepared["head_setup_commands"] == cluster["setup_commands"] + cluster["head_setup_commands"]
    assert prepared["worker_setup_commands"] == cluster["setup_commands"]


def change(tree, path, value):
    *folders, last = path
    for name in folders:
        tree = tree[name]
    if value is None:
        del tree[last]
    else:
        tree[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 3),
        (("auth", "ssh_usr"), "ubuntu"),
        (("provider", "type"), None),
        (("provider", "security_group", "IpPermission"), []),
        (("available_node_types", "gpu", "max_worker"), 3),
        (("available_node_types", "gpu", "resources"), None),
        (("available_node_types", "gpu", "resources", "GPU"), "one"),
        (("available_node_types", "cpu", "min_workers"), 13),
        (("head_node_type",), "haed"),
        (("setup_commands", 0), {"run": "true"}),
    ],
)
def test_mistakes_are_refused(cluster, path, value):
    import jsonschema

    change(cluster, path, value)
    with pytest.raises((ValueError, KeyError, jsonschema.ValidationError)):
        valid(cluster)


def test_head_runs_drivers_only_and_is_not_taken_away(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


@pytest.mark.parametrize("pool", POOLS)
def test_pools_grow_from_nothing_on_spot_machines(cluster, pool):
    nodes = cluster["available_node_types"][pool]
    assert nodes["min_workers"] == 0 < nodes["max_workers"]
    assert nodes["resources"]["CPU"] > 0
    assert nodes["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_only_the_gpu_pool_has_gpus(cluster):
    types = cluster["available_node_types"]
    assert set(types) == {"head", *POOLS}
    assert types["gpu"]["resources"]["GPU"] >= 1
    assert "GPU" not in types["cpu"]["resources"]
    assert types["gpu"]["labels"] == {resources._GPU_LABEL: "L4"}
    assert sum(types[pool]["max_workers"] for pool in POOLS) == cluster["max_workers"]


def test_dashboard_listens_on_loopback_only(cluster):
    heads = [c for c in starts(cluster) if "--head" in c.split()]
    assert len(heads) == 1
    assert "--dashboard-host=127.0.0.1" in heads[0].split()
    assert "0.0.0.0" not in " ".join(strings(valid(cluster)))


def test_nothing_but_ssh_is_opened(cluster):
    assert "IpPermissions" not in cluster["provider"]["security_group"]  # what Ray adds by itself: SSH, and the group
    assert not re.findall(r"ray-client-server-port|NetworkInterfaces", " ".join(strings(cluster)))


def test_every_start_demands_the_token(cluster):
    assert len(starts(cluster)) == 2
    assert all("RAY_AUTH_MODE=token ray start" in c for c in starts(cluster))
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


def test_the_lock_is_what_is_installed(cluster):
    installs = [re.split(r"pip install --quiet ", c)[1] for c in commands(cluster) if "pip install" in c]
    assert installs == [
        "--no-deps -r ~/emo_ray/requirements.lock",
        "--no-deps --no-build-isolation --editable ~/emo_ray",
        "--constraint ~/emo_ray/requirements.lock boto3",
    ]


def test_what_is_copied_is_there_and_enough_to_install(cluster):
    copied = {remote: local for remote, local in cluster["file_mounts"].items() if not local.startswith("~")}
    for remote, local in copied.items():
        assert (ROOT / local).exists()
        assert remote == f"/home/ubuntu/emo_ray/{local}"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for needed in ("README.md", "LICENSE"):
        assert f'"{needed}"' in project
        assert needed in copied.values()
    assert {"emo_ray", "jobs", "pyproject.toml", "requirements.lock"} < set(copied.values())


def test_no_addresses_of_package_registries(cluster):
    assert not [text for text in strings(cluster) if "://" in text or "--index" in text]


def test_commands_are_bash(cluster):
    for command in commands(cluster):
        checked = subprocess.run(["bash", "-n", "-c", f"( {command} )"], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


def test_the_settings_it_advises_exist():
    comments = "\n".join(line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    advised = dict(re.findall(r"\s([a-z]+\.[a-z_.]+)=([^\s:,;]+\S*)", comments))
    assert {"store.root", "data.manifest", "train.use_gpu"} <= set(advised)
    config = load("mer2024", {key: value.rstrip(":") for key, value in advised.items()})
    assert config.train.use_gpu == "yes"
    assert config.store.root.startswith("/shared/")
