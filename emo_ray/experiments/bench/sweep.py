"""The part on sweeps: fusion heads trained in bulk against heads trained one by one; and the average of a train stage.

Both use every core with one thread each, the same five folds, settings and epochs. One by one is the plain training
loop in a process that is up already: the time Ray Tune takes to start a trial is not counted.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from emo_ray import cluster
from emo_ray.config import Config, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.experiments.bench.step import product_flops
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured, compared, rounds, timed
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.models.head_average import together
from emo_ray.progress import progress
from emo_ray.stages.sweeps.stacked import most_at_once, process_count, shared_out, start_workers, wave_of
from emo_ray.training import loop
from emo_ray.training.in_memory import batches_in_memory, fit_head, one_thread
from emo_ray.training.search import Params, applied
from emo_ray.training.stacked_clips import Clips
from emo_ray.training.stacked_epochs import StackedEpochs

PART, FOLDS, CLASSES = "sweep", 5, 6
_HEADS = 8  # whose matrix products are measured together
_SHARE_ONE_BY_ONE = 0.16  # of the trials are trained one by one: rates are compared
_AVERAGED = 3  # heads that the train stage averages on a small corpus


@dataclass(frozen=True)
class Size:
    """A table of random features and how much is trained on it."""

    name: str
    clips: int
    dims: tuple[int, int, int]  # of video, audio and text
    epochs: int
    share: float  # of `bench.trials` that are trained
    at_least: float  # ratio that is wanted
    widths: tuple[int, ...] = (128,)  # of the trials' heads, in turn


_MOSI = "MOSI's size: 1,447 clips of 73 + 100 + 100, widths of 64, 128 and 256"
_SIZES = (
    Size("1,500 clips of 3 x 100 dimensions", 1500, (100, 100, 100), 3, 1.0, 5.0),
    Size(f"{_MOSI}, few trials", 1447, (73, 100, 100), 5, 0.16, 5.0, (64, 128, 256)),
    Size(_MOSI, 1447, (73, 100, 100), 5, 1.0, 10.0, (64, 128, 256)),
    Size("MER2024's size: 5,030 clips of 768 + 1,024 + 5,120", 5030, (768, 1024, 5120), 2, 0.32, 1.5),
)


def sweep(config: Config, scratch: Path) -> Measured:
    """Heads per second on random features, in bulk against one by one; and the average of a train stage."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    peak_flops = product_flops(torch.device("cpu"), torch.float32)  # on all cores, while nothing else runs
    for size in _SIZES:
        changes = {"train.epochs": size.epochs, "fusion.passes_per_epoch": 1, "store.root": str(scratch)}
        changes |= {"tune.search": "random"}  # whose waves are full
        size_config, table = override(config, changes), _table(size)
        trials = _trials(round(size.share * config.bench.trials), size.widths)
        few_trials = trials[: _whole_turns(round(_SHARE_ONE_BY_ONE * len(trials)), size.widths)]
        ways = {
            "in bulk": partial(_in_bulk, size_config, table, trials),
            "one by one": partial(_one_by_one, size_config, table, few_trials),
        }
        with progress(f"sweeping {size.name}", len(ways) * (config.bench.pairs + 1), "runs") as advance:
            seconds = rounds(ways, config.bench.pairs, advance)
        for way, head_s in seconds.items():
            heads_per_s = 1 / median(head_s)
            utilisation = heads_per_s * _flops(size) / peak_flops
            clips_per_s = heads_per_s * size.clips * size.epochs
            figures.append(Figure(PART, f"{size.name}, {way}", clips_per_s, utilisation=utilisation))
        limit_flops = _limit_flops(size, config.fusion.batch_size)
        clips_per_s = limit_flops / _flops(size) * size.clips * size.epochs
        figures.append(
            Figure(PART, f"{size.name}: matrix products alone", clips_per_s, utilisation=limit_flops / peak_flops)
        )
        what = f"{size.name}: {len(trials)} trials x {FOLDS} folds in bulk / one by one"
        comparisons.append(compared(PART, what, seconds["one by one"], seconds["in bulk"], size.at_least))
    size = _SIZES[0]
    changes = {"train.epochs": size.epochs, "fusion.hidden": size.widths[0], "fusion.passes_per_epoch": 4}
    average = partial(_average, override(config, changes), from_features(_table(size)))
    ways = {"in a stack": partial(average, True), "step by step": partial(average, False)}
    with progress("training averages of heads", len(ways) * (config.bench.pairs + 1), "runs") as advance:
        seconds = rounds(ways, config.bench.pairs, advance)
    what = f"the train stage's {_AVERAGED} heads on {size.name}: in a stack / step by step"
    comparisons.append(compared(PART, what, seconds["step by step"], seconds["in a stack"], 1.8))
    return figures, comparisons


def _whole_turns(count: int, widths: Sequence[int]) -> int:
    """The count of trials, rounded up until each width has the same number of them.

    Wide heads take longer, so two ways compare only where they train the same mix.
    """
    return max(1, -(-count // len(widths))) * len(widths)


def _trials(count: int, widths: Sequence[int]) -> list[Params]:
    """Trials of these widths in turn, at least `count`."""
    rng = np.random.default_rng(0)
    return [
        {
            "fusion.lr": float(10 ** rng.uniform(-4, -2)),
            "fusion.dropout": float(rng.uniform(0, 0.6)),
            "fusion.hidden": widths[number % len(widths)],
        }
        for number in range(_whole_turns(count, widths))
    ]


def _table(size: Size) -> pa.Table:
    """Random features and labels in the form of `labelled.labelled_rows`."""
    rng = np.random.default_rng(0)
    columns = {"clip_id": pa.array([f"clip-{i}" for i in range(size.clips)])}
    for name, dim in zip(MODALITIES, size.dims, strict=True):
        values = pa.array(rng.normal(size=size.clips * dim).astype(np.float32))
        columns[name] = pa.FixedSizeListArray.from_arrays(values, dim)
        columns[f"has_{name}"] = pa.array(np.ones(size.clips, bool))
    return pa.table(columns | {"label": pa.array(rng.integers(CLASSES, size=size.clips))})


def _folds(table: pa.Table) -> list[Clips]:
    """The training and the validation clips of every fold."""
    clips, fold_B = from_features(table), torch.arange(len(table)) % FOLDS
    return [Clips(clips.rows(fold_B != fold), clips.rows(fold_B == fold)) for fold in range(FOLDS)]


def _in_bulk(config: Config, table: pa.Table, trials: Sequence[Params]) -> float:
    """Seconds per head, from when its processes have the features; measured at the end, as trials in folds are."""
    workers = start_workers(config, _labels(), _folds(table), process_count(config, len(trials) * FOLDS))
    most = most_at_once(config, len(workers))
    ray.get([worker.start.remote({}) for worker in workers])
    plan = [False] * (config.train.epochs - 1) + [True]
    begun_s = time.perf_counter()
    begun = 0
    while begun < len(trials):
        numbers = range(begun, begun + wave_of(len(trials) - begun, most))
        begun = numbers.stop
        shares = shared_out({number: trials[number] for number in numbers}, FOLDS, config, len(workers))
        share_of = list(zip(workers, shares, strict=True))
        ray.get([worker.start.remote({cell: trials[cell[0]] for cell in share}) for worker, share in share_of])
        ray.get([worker.train.remote(share, plan) for worker, share in share_of])
    took_s = time.perf_counter() - begun_s
    for worker in workers:
        ray.kill(worker)
    return took_s / (len(trials) * FOLDS)


def _one_by_one(config: Config, table: pa.Table, trials: Sequence[Params]) -> float:
    """Seconds per head, from when its processes are up."""
    count = int(cluster.cpus())
    folds = ray.put(_folds(table))
    worker_class: Any = SingleHeadWorker
    workers = [worker_class.remote(config, folds) for _ in range(count)]
    ray.get([worker.train.remote([]) for worker in workers])
    heads = [(params, fold) for params in trials for fold in range(FOLDS)]
    begun_s = time.perf_counter()
    ray.get([worker.train.remote(heads[i::count]) for i, worker in enumerate(workers)])
    took_s = time.perf_counter() - begun_s
    for worker in workers:
        ray.kill(worker)
    return took_s / len(heads)


@ray.remote(num_cpus=0.5)
class SingleHeadWorker:
    """Trains heads one after the other."""

    def __init__(self, config: Config, folds: Sequence[Clips]):
        self.config, self.folds = config, folds

    def train(self, heads: Sequence[tuple[Params, int]]) -> None:
        """Train these heads, each given as (settings, fold)."""
        with one_thread():
            for params, fold in heads:
                clips = self.folds[fold]
                fit_head(clips.train, clips.validation, applied(self.config, params), CLASSES)


def _average(config: Config, clips: FeatureBatch, is_stacked: bool) -> float:
    """Seconds of an average of three heads on one core, without validation."""
    settings, count = config.fusion, len(clips)
    statistics, rates_of = scalings(clips), feature_rates(clips, settings.feature_dropout)
    average = together([FusionHead(settings, statistics, CLASSES, rates_of) for _ in range(_AVERAGED)])
    steps = -(-count // settings.batch_size) * settings.passes_per_epoch
    plan = loop.LoopSettings(settings, config.train.epochs, steps, config.seed)
    batches = batches_in_memory(clips, settings.batch_size, config.seed, settings.passes_per_epoch)
    epochs = StackedEpochs(clips, settings) if is_stacked else loop.by_steps(batches)
    with one_thread():
        begun_s = time.perf_counter()
        loop.fit_epochs(average, epochs, lambda epoch: [], plan, loop.PlainReporter())
        return time.perf_counter() - begun_s


def _labels() -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(CLASSES))


def _flops(size: Size) -> float:
    """Floating-point operations of the matrix products in training a head: the mean of the widths.

    Every layer computes forward and the gradients of its weights; layers after the first also those of their inputs.
    Modalities that dropout hides are counted, whether they are computed or not.
    """
    products = [
        4 * sum(size.dims) * hidden + 6 * (len(MODALITIES) * hidden**2 + hidden * CLASSES) for hidden in size.widths
    ]
    return sum(products) / len(products) * size.clips * (1 - 1 / FOLDS) * size.epochs


def _limit_flops(size: Size, batch_size: int) -> float:
    """FLOP/s of these products alone, each of the shape that it has in a step, for eight heads on all cores."""
    flops, took_s = 0.0, 0.0
    for hidden in size.widths:
        wide = len(MODALITIES) * hidden
        shapes = [(batch_size, wide, hidden), (wide, batch_size, hidden), (batch_size, hidden, wide)]
        shapes += [shape for dim in size.dims for shape in ((batch_size, dim, hidden), (dim, batch_size, hidden))]
        for rows, inner, columns in shapes:
            left, right = torch.randn(_HEADS, rows, inner), torch.randn(_HEADS, inner, columns)
            flops += 2 * _HEADS * rows * inner * columns
            took_s += min(timed(partial(torch.bmm, left, right), {"": 0.0}, "") for _ in range(20))
    return flops / took_s
