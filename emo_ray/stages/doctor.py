"""doctor: whether this machine can run a recipe, what is missing, and what to do about it."""

from collections.abc import Sequence

import psutil

from emo_ray import cluster, preflight
from emo_ray.config import Config
from emo_ray.models.identity import stand_in_notes
from emo_ray.models.memory import memory_by_step
from emo_ray.models.weights import Weights, problems_of, weights_of
from emo_ray.preflight import megabytes
from emo_ray.reports.table import Cell, Style, Table
from emo_ray.stages import machine
from emo_ray.stages.machine import Check, State
from emo_ray.stages.result import Result

_GPU_SIZES_GB = (8, 12, 16, 24, 32, 40, 48, 80, 141)
_USABLE = 0.95  # of a GPU's memory: the driver takes some
_STYLES: dict[State, Style] = {"ok": "good", "warning": "warning", "error": "bad"}


def doctor(config: Config) -> Result:
    """What was found on this machine, for this config: a row for each check; exit status 2 where one is an error.

    Nothing is written, no model is loaded and Ray is not started.
    """
    root = cluster.store_root(config)
    models = preflight.models_config(config)
    on_gpu = config.train.use_gpu == "yes" or (config.train.use_gpu == "auto" and machine.gpu_bytes() > 0)
    weights = weights_of(models, on_gpu)
    paths = [Check("paths", "error", line, "") for line in preflight.missing_paths(config)]
    notes = [Check("recipe", "warning", line, "") for line in stand_in_notes(models)]
    encoders = [*_weights(models, weights), *_memory(models, weights, on_gpu)]
    rows = [*machine.checks(config, root), *paths, *encoders, *notes]
    errors = [row for row in rows if row.state == "error"]
    warnings = [row for row in rows if row.state == "warning"]
    lines = [f"{row.state}: {row.subject}: {row.advice}" for row in (*errors, *warnings) if row.advice]
    lines.append("ready" if not errors else f"{len(errors)} of {len(rows)} checks failed")
    content = {"checks": [row.as_dict() for row in rows], "errors": len(errors), "warnings": len(warnings)}
    return Result(root, content, [_table(rows)], lines, 2 if errors else 0)


def _table(rows: Sequence[Check]) -> Table:
    cells: list[list[str | Cell]] = [[row.subject, Cell(row.state, _STYLES[row.state]), row.finding] for row in rows]
    return Table("This machine and this recipe", ["checked", "state", "found"], cells, words=(0, 1, 2))


def _weights(config: Config, weights: Sequence[Weights]) -> list[Check]:
    """A row for each pretrained model, and one for each thing that keeps an encoder from being built."""
    rows = []
    for entry in weights:
        size = f"{megabytes(entry.memory_bytes)} in memory" if entry.memory_bytes else "of unknown size"
        if entry.problem:
            finding, _, expected = entry.problem.partition(", expected ")
            advice = f"give {expected}" if expected else ""
            fetched = f"{megabytes(entry.fetched_bytes)} to fetch, " if entry.fetched_bytes else ""
            rows.append(Check(entry.key, "error", f"{finding.removeprefix(f'{entry.key}: ')}; {fetched}{size}", advice))
        elif entry.fetched_bytes != 0:
            rows.append(Check(entry.key, "ok", f"{entry.name}: {megabytes(entry.fetched_bytes)} to fetch; {size}"))
        else:
            rows.append(Check(entry.key, "ok", f"{entry.name}: at hand; {size}"))
    explained = {entry.problem for entry in weights}
    return rows + [Check("encoders", "error", line) for line in problems_of(config, weights) if line not in explained]


def _memory(config: Config, weights: Sequence[Weights], on_gpu: bool) -> list[Check]:
    """Whether the models that are in memory at once fit: into the GPU where one is used, else into main memory."""
    if any(entry.key == "emovclip.clip" for entry in weights):
        return []  # there is no such CLIP
    steps = memory_by_step(config, weights, on_gpu)
    if not steps:
        return []
    largest = max(steps.values())
    finding = ", ".join(f"{step} {megabytes(size)}" for step, size in steps.items())
    if not on_gpu:
        return [_fit(finding, largest, psutil.virtual_memory().total, "this machine's memory")]
    if size := machine.gpu_bytes():
        return [_fit(finding, largest, size * _USABLE, "the GPU")]
    least = next((size for size in _GPU_SIZES_GB if largest <= size * 1e9 * _USABLE), None)
    words = f"a GPU of {least} GB is enough" if least else "no usual GPU is enough"
    return [Check("memory", "ok" if least else "error", f"{finding}: {words}")]


def _fit(finding: str, needed: float, room: float, place: str) -> Check:
    if needed <= room:
        return Check("memory", "ok", f"{finding}: fits {place} ({megabytes(room)})")
    advice = "lower emovclip.micro_batch_size, or name smaller encoders"
    return Check("memory", "error", f"{finding}: more than {place} has ({megabytes(room)})", advice)
