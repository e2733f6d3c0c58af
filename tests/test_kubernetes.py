"""kubernetes/rayjob.yaml and the Dockerfile: their structure by a schema, and facts that must hold together.

The schema is our short form of KubeRay's ray.io/v1 and of Kubernetes' pods: whatever it does not list is refused.
"""

import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from emo_ray.commands import COMMANDS
from emo_ray.config import load, parse_words

ROOT = Path(__file__).parents[1]
FILE = ROOT / "kubernetes" / "rayjob.yaml"
DOCKERFILE = ROOT / "Dockerfile"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def table(required, **optional):
    """An object with these fields and no others."""
    fields = {**required, **optional}
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def items(schema):
    return {"type": "array", "items": schema, "minItems": 1}


TEXT, COUNT, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = table({"name": {"type": "string", "pattern": NAME, "maxLength": 47}})  # KubeRay's longest
AMOUNTS = {"type": "object", "additionalProperties": {"type": "string", "pattern": QUANTITY}}
CONTAINER = table(
    {
        "name": {"type": "string", "pattern": NAME},
        "image": TEXT,
        "resources": table({"requests": AMOUNTS}, limits=AMOUNTS),
    },
    volumeMounts=items(table({"name": TEXT, "mountPath": {"type": "string", "pattern": "^/"}})),
)
POD = table(
    {"containers": items(CONTAINER)},
    securityContext=table({}, runAsNonRoot=FLAG, runAsUser=COUNT, fsGroup=COUNT),
    nodeSelector=STRINGS,
    tolerations=items(
        table({"key": TEXT, "operator": {"enum": ["Exists", "Equal"]}}, effect={"enum": ["NoSchedule", "NoExecute"]})
    ),
    volumes=items(table({"name": TEXT, "persistentVolumeClaim": table({"claimName": TEXT})})),
)
GROUP = {"rayStartParams": STRINGS, "template": table({"spec": POD})}
WORKERS = table({**GROUP, "groupName": TEXT, "minReplicas": COUNT, "maxReplicas": COUNT}, replicas=COUNT)
CLUSTER = table(
    {"headGroupSpec": table(GROUP), "workerGroupSpecs": items(WORKERS)},
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=table({}, idleTimeoutSeconds=COUNT),
    authOptions=table({"mode": {"enum": ["token", "disabled"]}}),
)
JOB = table(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
)
CLAIM = table(
    {"accessModes": items({"enum": ["ReadWriteMany"]}), "resources": table({"requests": AMOUNTS})},
    storageClassName=TEXT,
)
KINDS = {
    "RayJob": table({"apiVersion": {"const": "ray.io/v1"}, "kind": TEXT, "metadata": METADATA, "spec": JOB}),
    "PersistentVolumeClaim": table({"apiVersion": {"const": "v1"}, "kind": TEXT, "metadata": METADATA, "spec": CLAIM}),
}


@pytest.fixture
def parts():
    """The documents of the file by their kind."""
    return {part["kind"]: part for part in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


@pytest.fixture
def cluster(parts):
    return parts["RayJob"]["spec"]["rayClusterSpec"]


def pods(cluster):
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_every_document_has_the_structure_of_its_kind(parts):
    assert set(parts) == set(KINDS)
    for kind, part in parts.items():
        jsonschema.validate(part, KINDS[kind])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofLimit"), 3),
        (("spec", "backoffLimit"), "three"),
        (("apiVersion",), "ray.io/v1alpha1"),
        (("spec", "rayClusterSpec", "authOptions"), {"enableK8sTokenAuth": True}),  # not for RayJobs
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), -1),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
    ],
)
def test_mistakes_are_refused(parts, path, value):
    *folders, last = path
    tree = parts["RayJob"]
    for name in folders:
        tree = tree[name]
    tree[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parts["RayJob"], KINDS["RayJob"])


def test_a_failed_job_goes_on_with_the_store_on_a_new_cluster(parts):
    spec = parts["RayJob"]["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["shutdownAfterJobFinishes"]
    program, job, *words = shlex.split(spec["entrypoint"])
    assert (program, job in COMMANDS) == ("emo-ray", True)
    parsed = parse_words(words)
    config = load(parsed.recipe, parsed.changes)
    assert config.train.use_gpu == "yes"
    gpu = next(g for g in spec["rayClusterSpec"]["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert config.train.num_workers <= gpu["maxReplicas"]
    mounts = {
        m["mountPath"] for pod in pods(spec["rayClusterSpec"]) for c in pod["containers"] for m in c["volumeMounts"]
    }
    assert mounts == {"/shared"}
    assert config.store.root.startswith("/shared/")


def test_every_pod_mounts_the_volume_that_is_claimed(parts, cluster):
    claim = parts["PersistentVolumeClaim"]["metadata"]["name"]
    for pod in pods(cluster):
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        assert [volumes[m["name"]] for c in pod["containers"] for m in c["volumeMounts"]] == [claim]


def test_the_token_is_demanded_and_the_head_runs_no_tasks(cluster):
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pools_grow_from_nothing_and_only_one_has_gpus(cluster):
    assert cluster["enableInTreeAutoscaling"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in groups.values())
    limits = {n: g["template"]["spec"]["containers"][0]["resources"]["limits"] for n, g in groups.items()}
    assert {name for name, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu"}


def test_versions_are_the_projects(cluster):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = (need for need in project["dependencies"] if need.startswith("ray["))
    assert ray.endswith(f"=={cluster['rayVersion']}")
    images = {container["image"] for pod in pods(cluster) for container in pod["containers"]}
    assert images == {f"FILL-IN/emo_ray:{project['version']}"}


def instructions():
    """The Dockerfile's instructions: (word, arguments)."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_image_is_made_of_the_lock_by_known_instructions():
    steps = instructions()
    assert steps[0] == ("FROM", "python:3.12-slim")
    assert {word for word, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    installs = [text for word, text in steps if word == "RUN" and "pip install" in text]
    assert installs == [
        "pip install --no-cache-dir --no-deps -r requirements.lock",
        "pip install --no-cache-dir --no-deps --no-build-isolation .",
    ]
    assert "setuptools==" in (ROOT / "requirements.lock").read_text(encoding="utf-8")  # which builds the second


def test_what_is_copied_is_there_and_enough_to_install():
    copied = {name for word, text in instructions() if word == "COPY" for name in text.split()[:-1]}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "emo_ray"}
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_does_not_run_as_root(cluster):
    steps = instructions()
    users = [text for word, text in steps if word == "USER"]
    assert users == ["ray"]
    (made,) = re.findall(r"useradd .*--uid (\d+) ray", " ".join(text for _, text in steps))
    assert {pod["securityContext"]["runAsUser"] for pod in pods(cluster)} == {int(made)}


def test_the_image_has_what_kuberays_probes_call():
    installed = next(text for word, text in instructions() if word == "RUN" and "apt-get install" in text)
    assert "wget" in installed
    assert "rm -rf /var/lib/apt/lists" in installed


def test_no_addresses_of_package_registries():
    for file in (FILE, DOCKERFILE):
        assert "://" not in file.read_text(encoding="utf-8")
