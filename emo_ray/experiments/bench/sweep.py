"""The part of the benchmark that is a sweep: fusion heads trained in bulk, and one by one as a trial alone trains them.

Both use every core with one thread each, the same five folds, settings and epochs. One by one is the train stage's own
code in a process that is up already: what Ray Tune takes to start a trial is not counted.
"""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import ray
import torch

from emo_ray import cluster
from emo_ray.config import Config, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import from_features
from emo_ray.experiments.bench.data import Measured
from emo_ray.experiments.bench.step import product_flops
from emo_ray.experiments.bench.timing import Figure, compared, rounds
from emo_ray.models import checkpoint
from emo_ray.models.fusion import scalings
from emo_ray.progress import progress
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.sweeps.stacked import Fold, Worker, wave_of
from emo_ray.training.search import Params, applied

PART, FOLDS, CLASSES = "sweep", 5, 6
# Clips, dimensions of video, audio and text, epochs, and how many of `bench.trials` are trained.
_TABLES = {
    "1,500 clips of 3 x 100 dimensions": (1500, (100, 100, 100), 3, 1.0, 5.0),
    "MER2024's size: 5,030 clips of 768 + 1,024 + 5,120": (5030, (768, 1024, 5120), 2, 0.32, 1.5),
}
_ALONE = 0.16  # of these trials are trained one by one: rates are compared


def sweep(config: Config, scratch: Path) -> Measured:
    """Heads a second in bulk against one by one, on random features of two sizes."""
    figures, comparisons = [], []
    peak = product_flops(torch.device("cpu"), torch.float32)  # on all cores, while nothing else runs
    for name, (clips, dims, epochs, share, at_least) in _TABLES.items():
        own = override(config, {"train.epochs": epochs, "fusion.passes_per_epoch": 1, "store.root": str(scratch)})
        trials = _trials(max(1, round(share * config.bench.trials)))
        some = trials[: max(1, round(_ALONE * len(trials)))]
        table = _table(clips, dims)
        ways = {"in bulk": partial(_in_bulk, own, table, trials), "one by one": partial(_one_by_one, own, table, some)}
        with progress(f"sweeping {name}", 2 * (config.bench.pairs + 1), "runs") as advance:
            seconds = rounds(ways, config.bench.pairs, advance)
        for way, each_s in seconds.items():
            rate = 1 / median(each_s)  # heads
            reached = rate * _flops(own, clips, dims) / peak
            figures.append(Figure(PART, f"{name}, {way}", rate * clips * epochs, utilisation=reached))
        what = f"{name}: {len(trials)} trials x {FOLDS} folds in bulk / one by one"
        comparisons.append(compared(PART, what, seconds["one by one"], seconds["in bulk"], at_least))
    return figures, comparisons


def _trials(count: int) -> list[Params]:
    rng = np.random.default_rng(0)
    return [
        {"fusion.lr": float(10 ** rng.uniform(-4, -2)), "fusion.dropout": float(rng.uniform(0, 0.6))}
        for _ in range(count)
    ]


def _table(clips: int, dims: Sequence[int]) -> pa.Table:
    """Random features and labels, as features.load and train.labelled give them."""
    rng = np.random.default_rng(0)
    columns = {"clip_id": pa.array([f"clip-{i}" for i in range(clips)])}
    for name, dim in zip(MODALITIES, dims, strict=True):
        values = pa.array(rng.normal(size=clips * dim).astype(np.float32))
        columns[name] = pa.FixedSizeListArray.from_arrays(values, dim)
        columns[f"has_{name}"] = pa.array(np.ones(clips, bool))
    return pa.table(columns | {"label": pa.array(rng.integers(CLASSES, size=clips))})


def _folds(table: pa.Table) -> list[tuple[pa.Table, pa.Table]]:
    """(to train on, to validate on) of every fold."""
    fold_B = np.arange(len(table)) % FOLDS
    return [(table.filter(pa.array(fold_B != i)), table.filter(pa.array(fold_B == i))) for i in range(FOLDS)]


def _in_bulk(config: Config, table: pa.Table, trials: Sequence[Params]) -> float:
    """Seconds a head, from when its processes have the features."""
    folds = [ray.put(Fold(*(from_features(part) for part in parts))) for parts in _folds(table)]
    workers = [Worker.remote(config, _labels(), folds) for _ in range(int(cluster.cpus()))]
    ray.get([worker.start.remote({}) for worker in workers])
    begun_s = time.perf_counter()
    begun = 0
    while begun < len(trials):
        numbers = range(begun, begun + wave_of(len(trials) - begun, len(workers)))
        begun = numbers.stop
        mine = [[n for n in numbers if n % len(workers) == i] for i in range(len(workers))]
        ray.get([w.start.remote({n: trials[n] for n in own}) for w, own in zip(workers, mine, strict=True)])
        for _ in range(config.train.epochs):
            ray.get([w.epoch.remote(own) for w, own in zip(workers, mine, strict=True)])
    took_s = time.perf_counter() - begun_s
    for worker in workers:
        ray.kill(worker)
    return took_s / (len(trials) * FOLDS)


def _one_by_one(config: Config, table: pa.Table, trials: Sequence[Params]) -> float:
    """Seconds a head, from when its processes are up."""
    count, folds = int(cluster.cpus()), ray.put(_folds(table))
    workers = [_Alone.remote(config, folds) for _ in range(count)]
    ray.get([worker.train.remote([]) for worker in workers])
    heads = [(params, fold) for params in trials for fold in range(FOLDS)]
    begun_s = time.perf_counter()
    ray.get([worker.train.remote(heads[i::count]) for i, worker in enumerate(workers)])
    took_s = time.perf_counter() - begun_s
    for worker in workers:
        ray.kill(worker)
    return took_s / len(heads)


@ray.remote(num_cpus=0.5)
class _Alone:
    """Trains heads one after the other, each as a trial of Ray Tune does in its process."""

    def __init__(self, config: Config, folds: list[tuple[pa.Table, pa.Table]]):
        self.config, self.folds = config, folds
        cluster.connect(config)

    def train(self, heads: Sequence[tuple[Params, int]]) -> None:
        """Heads as (settings, fold)."""
        for params, fold in heads:
            config, (train, validation) = applied(self.config, params), self.folds[fold]
            tables = {"train": train, "validation": validation}
            datasets = {name: ray.data.from_arrow(part).materialize() for name, part in tables.items()}
            job = ray_train.TrainingJob(
                phase="fusion",
                digest="",
                build=partial(checkpoint.fresh_fusion, config, scalings(from_features(train)), _labels()),
                collate=from_features,
                optimisation=config.fusion,
                train_rows=len(train),
                fusion=True,
            )
            with tempfile.TemporaryDirectory() as folder:
                ray_train.train_locally(job, config, datasets, ray_train.LocalReporter(Path(folder), lambda: None))


def _labels() -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(CLASSES))


def _flops(config: Config, clips: int, dims: Sequence[int]) -> float:
    """Of matrix products in training a head: layers forward, gradients of weights, and of what later layers take in."""
    hidden = config.fusion.hidden
    first, later = sum(dims) * hidden, len(MODALITIES) * hidden * hidden + hidden * CLASSES
    return (4 * first + 6 * later) * clips * (1 - 1 / FOLDS) * config.train.epochs
