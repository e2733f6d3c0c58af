"""bench: every speed that we claim, measured on this machine, and what a corpus would take at these speeds.

Speeds are ratios of two ways that took turns in one run; a single figure says little about another machine.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.table import Table

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.experiments.bench import data, jobs, step, sweep
from emo_ray.experiments.bench.capacity import estimate_capacity
from emo_ray.experiments.bench.timing import Comparison, Figure
from emo_ray.progress import console, progress, say

VERSION, CONTENT = 1, "bench.json"
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "ray", "pyarrow", "av")


def _step(config: Config, scratch: Path) -> data.Measured:
    steps = (config.bench.pairs + 1) * step.WAYS * len(config.bench.batch_sizes)
    with progress("stepping", steps, "steps") as advance:
        return step.step(config, advance)


PARTS: dict[str, Callable[[Config, Path], data.Measured]] = {
    "decode": data.decode,
    "stream": data.stream,
    "step": _step,
    "train": jobs.train,
    "features": jobs.features,
    "predict": jobs.predict,
    "sweep": sweep.sweep,
}


@dataclass(frozen=True)
class Benchmarked:
    """A folder with bench.json."""

    path: Path
    content: dict

    def summary(self) -> dict:
        """The content of bench.json."""
        return self.content

    def show(self) -> None:
        """The table, for people."""
        console.print(_costs(self.content))
        if self.content["comparisons"]:
            console.print(_ratios(self.content))
        if self.content["plan"]:
            console.print(_plan_table(self.content["plan"]))
            say(self.content["plan"]["verdict"])


def bench(config: Config) -> Benchmarked:
    """Measure `bench.part` (all of them by default), alone on the machine if it is to mean anything.

    Raises ValueError where a plan is wanted from parts that do not give its figures.
    """
    wanted = list(PARTS) if config.bench.part == "all" else [config.bench.part]
    if config.bench.plan_clips and len(wanted) == 1:
        raise ValueError(
            f"found bench.plan_clips={config.bench.plan_clips} with the part {wanted[0]!r}, expected all parts: "
            "a plan needs the figures of every stage"
        )
    cluster.connect(config)
    cluster.as_a_worker()
    root = cluster.store_root(config)
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    root.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=root) as scratch:
        for part in wanted:
            say(f"measuring {part}")
            more_figures, more = PARTS[part](config, Path(scratch))
            torch.set_num_threads(threads)
            figures, comparisons = figures + more_figures, comparisons + more
    content = {
        "machine": _machine(),
        "settings": config.bench.model_dump(mode="json"),
        "figures": [asdict(f) for f in figures],
        "comparisons": [asdict(c) | {"holds": c.ratio >= c.at_least} for c in comparisons],
        "plan": estimate_capacity(config, figures, torch.cuda.is_available()) if config.bench.plan_clips else None,
    }
    folder = root / "bench" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    with store.writing(folder, {"kind": "bench", "version": VERSION}) as temporary:
        store.write_text(temporary / CONTENT, json.dumps(content, indent=1))
    return Benchmarked(folder, content)


def _machine() -> dict:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"cpus": os.cpu_count(), "processor": platform.machine(), "gpus": gpus, "python": platform.python_version(),
            **libraries}  # fmt: skip


def _costs(content: dict) -> Table:
    table = Table(title="What it costs")
    for name in ("part", "what", "clips/s", "CPU s/clip", "kB/clip", "peak GB", "waited %", "utilised %"):
        table.add_column(name, justify="left" if name in ("part", "what") else "right")
    for row in content["figures"]:
        table.add_row(
            row["part"],
            row["what"],
            _number(row["clips_per_s"]),
            _number(row["cpu_s_per_clip"]),
            _number(row["bytes_per_clip"], 1e-3),
            _number(row["peak_bytes"], 1e-9),
            _number(row["waited"], 100),
            _number(row["utilisation"], 100),
        )
    return table


def _ratios(content: dict) -> Table:
    table = Table(title="How many times faster", caption="medians over rounds in which the ways took turns")
    for name in ("part", "what", "ratio", "lowest", "highest", "at least", ""):
        table.add_column(name, justify="left" if name in ("part", "what", "") else "right")
    for row in content["comparisons"]:
        ratios = (f"{row[name]:.2f}" for name in ("ratio", "low", "high", "at_least"))
        table.add_row(row["part"], row["what"], *ratios, "holds" if row["holds"] else "[red]falls short[/red]")
    return table


def _plan_table(plan: dict) -> Table:
    table = Table(title=f"{plan['clips']} clips on {plan['cpus']} CPUs and {plan['gpus']} GPUs")
    for name in ("stage", "hours", "GB"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for row in plan["stages"]:
        table.add_row(row["stage"], _number(row["hours"]), _number(row["bytes"], 1e-9))
    return table


def _number(value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else f"{value * unit:.3g}"
