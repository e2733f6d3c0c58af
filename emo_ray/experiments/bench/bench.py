"""bench: every speed that we claim, measured on this machine, and what a corpus would take at these speeds.

Speeds are ratios of two ways that took turns in one run; a single figure says little about another machine.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from emo_ray import cluster, durable, store
from emo_ray.config import Config
from emo_ray.experiments.bench import commands, data, growth, jobs, step, sweep
from emo_ray.experiments.bench.capacity import Capacity, estimate_capacity
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured
from emo_ray.progress import progress, say
from emo_ray.reports.table import Cell, Table
from emo_ray.stages.result import Result

VERSION, CONTENT = 2, "bench.json"
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "ray", "pyarrow", "av")


def _step(config: Config, scratch: Path) -> Measured:
    steps = (config.bench.pairs + 1) * len(step.WAYS) * len(config.bench.batch_sizes)
    with progress("stepping", steps, "steps") as advance:
        return step.step(config, advance)


PARTS: dict[str, Callable[[Config, Path], Measured]] = {
    "decode": data.decode,
    "stream": data.stream,
    "step": _step,
    "train": jobs.train,
    "features": jobs.features,
    "predict": jobs.predict,
    "sweep": sweep.sweep,
    "growth": growth.growth,
    "start": commands.start,
    "suite": commands.suite,
}


def bench(config: Config) -> Result:
    """Measure `bench.part`, all of them by default. Figures mean something where nothing else runs on the machine.

    Raises ValueError where a plan is asked for and not every part is measured.
    """
    parts = list(PARTS) if config.bench.part == "all" else [config.bench.part]
    if config.bench.plan_clips and len(parts) == 1:
        raise ValueError(
            f"found bench.plan_clips={config.bench.plan_clips} with bench.part={parts[0]}, expected bench.part=all: "
            "a plan needs the figures of every stage"
        )
    cluster.connect(config)
    cluster.as_a_worker()
    root = cluster.store_root(config)
    root.mkdir(parents=True, exist_ok=True)
    figures, comparisons = _measure(config, parts, root)
    plan = None
    if config.bench.plan_clips:
        plan = estimate_capacity(config, config.bench.plan_clips, figures, torch.cuda.is_available())
    content = {
        "machine": _machine(),
        "settings": config.bench.model_dump(mode="json"),
        "figures": [asdict(figure) for figure in figures],
        "comparisons": [asdict(c) | {"holds": c.ratio >= c.at_least} for c in comparisons],
        "plan": plan,
    }
    folder = root / "bench" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")

    def fill(temporary: Path) -> None:
        durable.write_text(temporary / CONTENT, json.dumps(content, indent=1))

    store.artefact(folder, {"kind": "bench", "version": VERSION}, fill)
    tables = [_cost_table(figures), *([_ratio_table(comparisons)] if comparisons else [])]
    if plan is None:
        return Result(folder, content, tables)
    return Result(folder, content, [*tables, _plan_table(plan)], [plan["verdict"]])


def _measure(config: Config, parts: Sequence[str], root: Path) -> Measured:
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=root) as scratch:
        for part in parts:
            say(f"measuring {part}")
            part_figures, part_comparisons = PARTS[part](config, Path(scratch))
            torch.set_num_threads(threads)  # parts change it
            figures += part_figures
            comparisons += part_comparisons
    return figures, comparisons


def _machine() -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _cost_table(figures: Sequence[Figure]) -> Table:
    header = ["part", "what", "clips/s", "CPU s/clip", "kB/clip", "peak GB", "waited %", "utilised %", "seconds"]
    rows = [
        [
            figure.part,
            figure.what,
            _number(figure.clips_per_s),
            _number(figure.cpu_s_per_clip),
            _number(figure.bytes_per_clip, 1e-3),
            _number(figure.peak_bytes, 1e-9),
            _number(figure.waited, 100),
            _number(figure.utilisation, 100),
            _number(figure.seconds),
        ]
        for figure in figures
    ]
    return Table("What it costs", header, rows, words=(0, 1))


def _ratio_table(comparisons: Sequence[Comparison]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            comparison.part,
            comparison.what,
            *(f"{ratio:.2f}" for ratio in (comparison.ratio, comparison.low, comparison.high, comparison.at_least)),
            Cell("holds", "good") if comparison.ratio >= comparison.at_least else Cell("falls short", "bad"),
        ]
        for comparison in comparisons
    ]
    header = ["part", "what", "ratio", "lowest", "highest", "at least", ""]
    note = "medians over rounds in which the ways took turns"
    return Table("How many times faster", header, rows, note, words=(0, 1, 6))


def _plan_table(plan: Capacity) -> Table:
    rows = [[row["stage"], _number(row["hours"]), _number(row["bytes"], 1e-9)] for row in plan["stages"]]
    title = f"{plan['clips']} clips on {plan['cpus']} CPUs and {plan['gpus']} GPUs"
    return Table(title, ["stage", "hours", "GB"], rows)


def _number(value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else f"{value * unit:.3g}"
