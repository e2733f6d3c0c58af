"""What this machine is, and whether jobs can run on it: packages, processor, GPU, FFmpeg, places, ports."""

import importlib
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement

from emo_ray import cluster, tracking
from emo_ray.addresses import listening_problem
from emo_ray.config import Config
from emo_ray.data.media import codecs

_DISK_GB, _SHARED_GB, _FILES = 10.0, 2.0, 4096  # below, a warning
_PORTS = {8265: "Ray's dashboard", 5000: "mlflow ui"}
_PATIENCE_S = 3.0
State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, what was found, and what to do about it."""

    subject: str
    state: State
    finding: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields by name, as JSON."""
        return asdict(self)


def checks(config: Config, root: Path) -> list[Check]:
    """All checks of the machine. Nothing is written, and Ray is not started."""
    return [
        _packages(),
        _torch(),
        _processor(),
        _gpus(config),
        _ffmpeg(),
        _mlflow(config, root),
        *_places(root),
        _open_files(),
        _ports({**_PORTS, config.serve.port: "serve.port"}),
    ]


def _packages() -> Check:
    """Whether the installed packages are those that emo_ray asks for: torch and its companions, Ray, MLflow, ..."""
    subject = "packages"
    try:
        requirements = [Requirement(text) for text in metadata.requires("emo_ray") or ()]
    except metadata.PackageNotFoundError:
        return Check(subject, "warning", "emo_ray itself is not installed", "pip install . or make demo")
    wrong = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"no {requirement.name}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} for {requirement.specifier}")
    names = ("torch", "ray", "mlflow", "transformers")
    finding = f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in names)
    if wrong:
        return Check(subject, "error", f"{finding}; {', '.join(wrong)}", "install requirements.lock with --no-deps")
    return Check(subject, "ok", f"{finding}; all {len(requirements)} requirements met")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _torch() -> Check:
    """Whether torch and its companions load: libraries of different builds do not."""
    loaded = []
    for name in ("torch", "torchvision", "torchaudio"):
        try:
            loaded.append(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:  # OSError of the loader, RuntimeError of a missing operator, ...
            advice = "install the three versions of requirements.lock together"
            return Check("torch", "error", f"{name} does not load: {type(error).__name__}: {error}"[:200], advice)
    return Check("torch", "ok", f"{', '.join(loaded)} load together")


def _processor() -> Check:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    threads = len(os.sched_getaffinity(0))
    memory_gb = psutil.virtual_memory().total / 1e9
    finding = f"{platform.machine()}, {capability}, {threads} cores, {memory_gb:.0f} GB of memory"
    if capability == "DEFAULT" and platform.machine() == "x86_64":
        return Check("processor", "warning", finding, "without AVX2 all models are several times slower")
    if memory_gb < 6:
        return Check("processor", "warning", finding, "below 6 GB give cluster.num_cpus=1")
    return Check("processor", "ok", finding)


def _gpus(config: Config) -> Check:
    """The GPUs that torch can use, against what the config asks for."""
    import torch

    count, needed = torch.cuda.device_count(), max(1, config.train.num_workers)
    names = [_gpu_words(torch.cuda.get_device_properties(i)) for i in range(count)]
    finding = ", ".join(names) if count else "none"
    is_demanded = config.train.use_gpu == "yes"
    if is_demanded and count < needed and not cluster.joins(config):
        advice = "set train.use_gpu=auto, or join a cluster that has them (docs/cluster.md)"
        return Check("GPU", "error", f"{finding}; train.use_gpu=yes asks for {needed}", advice)
    if not count and (cluster.local_gpus() or 0) > 0:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        advice = f"torch was built for {built}: update the driver (nvidia-smi shows which CUDA it has)"
        return Check("GPU", "warning", "the driver has some, and torch cannot use them", advice)
    cuda = f"; CUDA {torch.version.cuda}" if count and torch.version.cuda else ""
    return Check("GPU", "ok", f"{finding}{cuda}" + ("" if count else ": everything runs on the processor"))


def _gpu_words(properties: Any) -> str:
    return f"{properties.name} with {properties.total_memory / 1e9:.0f} GB"


def gpu_bytes() -> float:
    """Memory of the smallest GPU that torch can use; 0 without any."""
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return float(min(sizes, default=0))


def _ffmpeg() -> Check:
    missing = codecs.missing_decoders()
    if missing:
        advice = "clips with them will be corrupt: install av from requirements.lock"
        return Check("FFmpeg", "warning", f"{codecs.versions()}, without {', '.join(missing)}", advice)
    return Check(
        "FFmpeg", "ok", f"{codecs.versions()}, with {', '.join(codecs.USUAL[:4])} and {len(codecs.USUAL) - 4} more"
    )


def _mlflow(config: Config, root: Path) -> Check:
    """Whether runs can be recorded: the database's tables are of this MLflow, or the server answers."""
    if not config.tracking.enabled:
        return Check("MLflow", "ok", "tracking.enabled=false: no runs are recorded")
    if config.tracking.uri is None and not root.is_dir():
        return Check("MLflow", "ok", f"version {_version('mlflow')}, and no store yet")
    address = tracking.uri(config, root)
    if address.startswith("http"):
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE_S).close()
        except OSError as error:
            advice = "start the server, or leave tracking.uri out"
            return Check("MLflow", "error", f"nothing answers at {parts.hostname}:{port}: {error}", advice)
        return Check("MLflow", "ok", f"{parts.hostname}:{port} answers")
    try:
        problem = tracking.outdated(address)
    except ValueError as error:
        return Check("MLflow", "error", str(error), "move the file away, or set tracking.uri")
    if problem is not None:
        return Check("MLflow", "error", problem, f"copy the file, then: mlflow db upgrade {address}")
    return Check(
        "MLflow",
        "ok",
        f"version {_version('mlflow')}, runs in {address.partition(':')[0]}: its tables fit, or are made",
    )


def _places(root: Path) -> list[Check]:
    """Room in the store, in Ray's temporary folder, and in shared memory."""
    nearest = next(path for path in (root, *root.parents) if path.exists())
    places = [_room("disk of the store", nearest, _DISK_GB, "free some, or set store.root to another disk")]
    places.append(_room("disk of /tmp", Path("/tmp"), _DISK_GB, "Ray keeps what memory lacks there: free some"))
    if Path("/dev/shm").is_dir():
        advice = "Ray keeps data there: in a container give --shm-size=4g, else it uses the slower /tmp"
        places.append(_room("shared memory", Path("/dev/shm"), _SHARED_GB, advice))
    return places


def _room(subject: str, folder: Path, least_gb: float, advice: str) -> Check:
    if not os.access(folder, os.W_OK):
        return Check(
            subject, "error", f"nothing can be written in {folder}", "name another folder, or change its rights"
        )
    free_gb = shutil.disk_usage(folder).free / 1e9
    finding = f"{free_gb:.1f} GB free in {folder}"
    if free_gb < least_gb / 10:
        return Check(subject, "error", finding, advice)
    return Check(subject, "warning" if free_gb < least_gb else "ok", finding, advice if free_gb < least_gb else "")


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        return Check("open files", "warning", f"at most {soft}", f"ulimit -n {_FILES} before a job, as Ray opens many")
    return Check("open files", "ok", f"at most {soft}" if soft >= 0 else "no limit")


def _ports(ports: Mapping[int, str]) -> Check:
    """Which of the ports that people use for pages are taken; Ray's own are any free ones."""
    busy = [f"{port} ({use})" for port, use in ports.items() if listening_problem("127.0.0.1", port)]
    if busy:
        return Check("ports", "warning", f"in use: {', '.join(busy)}", "end what listens there, or choose other ports")
    return Check("ports", "ok", f"{', '.join(map(str, ports))} are free on 127.0.0.1, {sys.platform}")
