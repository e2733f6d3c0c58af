"""How a model is trained on Ray: datasets stream to Train workers, or to this process, which run the one training loop.

Both are resumable: their state lies under a name that is the digest of everything that decides the result, so a worker
that dies is replaced, and a driver that dies goes on with the next epoch when it is started again.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch

from emo_ray import bucket, cluster, durable, resources, store
from emo_ray.config import Config
from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import Batch, FeatureBatch
from emo_ray.progress import say
from emo_ray.stages.fitting import epoch_log
from emo_ray.stages.fitting.streaming import Rows, all_rows, collated, in_tables
from emo_ray.training import loop, stacked_epochs
from emo_ray.training.divergence import stopped_early
from emo_ray.training.in_memory import batches_in_memory, own_device
from emo_ray.training.run_state import STATE, load_state
from emo_ray.training.seeds import Stream, derived_seed
from emo_ray.training.stacked_epochs import StackedEpochs


@dataclass(frozen=True)
class TrainingJob:
    """One model to train. The callables are pickled to the workers."""

    phase: str  # what it is called in bars and metrics
    digest: str  # of everything that decides the result
    build: Callable[[], torch.nn.Module]
    collate: Callable[[pa.Table], Batch]
    optimisation: Optimisation
    train_rows: int
    # Rows are features: each worker keeps its share, passes over it several times an epoch, validates all subsets.
    fusion: bool = False
    has_head: bool = False  # what is trained ends in a fusion head, though rows are no features: it is judged as one
    passes_per_epoch: int = 1
    precision: str = "fp32"
    class_weight_K: torch.Tensor | None = None
    logit_shift_K: torch.Tensor | None = None
    stop_after: int | None = None  # epochs, where fewer than `train.epochs` are trained
    collate_of: Callable[[int], Callable[[pa.Table], Batch]] | None = None  # epoch -> that of its training rows
    augment: Callable[[Any, int], Batch] | None = None  # as in LoopSettings
    ema: float = 0.0


def train(
    job: TrainingJob, config: Config, datasets: Mapping[str, Rows], on_epoch: epoch_log.OnEpoch
) -> dict[str, Any]:
    """Train, and return the best epoch (see `training.loop.fit`) with `history`, a list of every epoch's metrics.

    `planned` is how many epochs there are where training does not diverge.

    `datasets` holds "train" and, where there are clips for it, "validation". `on_epoch(phase, metrics)` is called in
    this process as epochs end, and for epochs of earlier runs, which are not repeated. Where `_trains_here` says so, it
    trains, to what one worker would. Raises Ray's WorkerGroupError after `train.max_failures` restarts.

    A run that diverges has a shorter history, and its best epoch is one before.
    """
    planned = job.stop_after or config.train.epochs
    folder = _state_folder(config, job.phase, job.digest)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with epoch_log.epoch_progress(folder, job.phase, planned, on_epoch) as tell:
            if _trains_here(job, config):
                best = train_locally(job, config, datasets, LocalReporter(folder, tell))
            else:
                with epoch_log.poll(tell):
                    best = _train_on_ray(job, config, datasets, folder)
    except Exception:
        if not epoch_log.history(folder):  # training diverged at once, for one: nothing to go on from
            clean_up(config, job.phase, job.digest)
        raise
    history = epoch_log.history(folder)
    check_history(folder, best, history)
    if stopped := stopped_early(job.phase, job.optimisation.lr, len(history), planned):
        say(stopped)
    return {**best, "history": history, "planned": planned}


def _trains_here(job: TrainingJob, config: Config) -> bool:
    """Whether this process trains: where no worker is asked for, and a head on few clips, without cluster or GPU.

    Ray Train takes 13 s to start a worker and to end it; such a head takes seconds to train.
    """
    if config.train.num_workers == 0:
        return True
    is_small = job.fusion and config.train.num_workers == 1 and resources.is_small_here(config, job.train_rows)
    has_gpu = config.train.use_gpu == "yes" or (config.train.use_gpu == "auto" and torch.cuda.is_available())
    return is_small and not has_gpu


def check_history(folder: Path, best: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
    """Raises DamagedFile, and removes the run's state, where the log of epochs lacks any that was trained.

    They could not be told from those that a run lacks which diverged.
    """
    if [metrics["epoch"] for metrics in history] != list(range(len(history))) or best["epoch"] >= len(history):
        store.remove(folder)
        raise store.DamagedFile(folder / epoch_log.METRICS, "it lacks epochs that were trained")


def train_locally(
    job: TrainingJob, config: Config, datasets: Mapping[str, Rows], reporter: loop.Reporter
) -> dict[str, Any]:
    """The training loop in this process, with any reporter."""
    with own_device(config) as device:
        return _train_in_worker(job, config, datasets, reporter, device)


def clean_up(config: Config, phase: str, digest: str) -> None:
    """Remove the state that only resuming needs, once the result is stored."""
    store.remove(_state_folder(config, phase, digest))


def _state_folder(config: Config, phase: str, digest: str) -> Path:
    return cluster.store_root(config) / "train" / f"{phase}-{digest}"


def _train_on_ray(job: TrainingJob, config: Config, datasets: Mapping[str, Rows], folder: Path) -> dict[str, Any]:
    cluster.connect(config)
    workers = config.train.num_workers
    if job.train_rows < workers:
        raise ValueError(
            f"found {job.train_rows} {job.phase} training clips for {workers} workers, expected at least one each: "
            "lower train.num_workers"
        )
    scaling = resources.train_scaling(config)
    threads = resources.usable_threads(scaling["resources_per_worker"]["CPU"])
    storage_path, filesystem = bucket.storage_of(folder)
    in_order = ray.data.ExecutionOptions(preserve_order=True)  # the same seed must see the same batches
    trainer = (_Trainer if cluster.has_dashboard() else _LocalTrainer)(
        partial(_worker, job, config, folder, threads),
        scaling_config=ray.train.ScalingConfig(**scaling),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg] # typed as Train V1's
        ),
        datasets={name: _dataset(rows) for name, rows in datasets.items()},
        dataset_config=ray.train.DataConfig(datasets_to_split=["train"], execution_options=in_order),
    )
    checkpoint = trainer.fit().checkpoint
    assert checkpoint is not None, "every epoch reports one"
    with checkpoint.as_directory() as state:
        return load_state(Path(state))["best"]


def _dataset(rows: Rows) -> ray.data.Dataset:
    """Rows in Ray's object store, from where all workers read them."""
    return ray.data.from_arrow(rows).materialize() if isinstance(rows, pa.Table) else cast(ray.data.Dataset, rows)


class _Trainer(ray.train.torch.TorchTrainer):
    """A trainer that leaves Ctrl-C to the job: Ray's own handler ends the process with status 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Register nothing."""


class _LocalTrainer(_Trainer):
    """A trainer for a local cluster, without the callback that frees the resources of a controller that died.

    The callback asks the dashboard, and without one every run ends with the callback's time-out of 12 s. A local
    cluster dies with its driver anyway.
    """

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc] # a method of Train V2
        return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]


class RayTrainReporter:
    """The `training.loop.Reporter` of a Ray Train worker."""

    def __init__(self, folder: Path):
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.folder, self.progress_file = folder, epoch_log.ProgressFile(folder)

    def restore(self) -> Path | None:
        """The last committed state."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        state = Path(checkpoint.to_directory(tempfile.mkdtemp()))
        try:
            load_state(state)
        except store.DamagedFile as damage:
            say(f"{damage}: training begins anew")
            return None
        return state

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Writes the metrics, then commits the state: an epoch that is listed but not kept is run again."""
        if self.rank == 0:
            epoch_log.append(self.folder, metrics)
        ray.train.report(metrics, checkpoint=_checkpoint(state))

    def keep(self, state: Path | None) -> None:
        """Commits the state inside an epoch."""
        ray.train.report({}, checkpoint=_checkpoint(state))

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Writes the step down for the driver."""
        if self.rank == 0:
            self.progress_file.write(epoch, step, steps)

    def gather(self, value: Any) -> list[Any]:
        """All ranks' values on every rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values


def _checkpoint(state: Path | None) -> ray.train.Checkpoint | None:
    return None if state is None else ray.train.Checkpoint.from_directory(state)


class LocalReporter(loop.PlainReporter):
    """The reporter of a single process without Ray: it keeps state and metrics in a folder."""

    def __init__(self, folder: Path, tell: Callable[[], None]):
        super().__init__()
        self.folder, self.tell, self.progress_file = folder, tell, epoch_log.ProgressFile(folder)

    def restore(self) -> Path | None:
        """The folder, if it holds the state of an epoch."""
        return self.folder if store.local(self.folder / STATE).exists() else None

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Writes the metrics first: an epoch that is listed but not kept is run again, and counts once."""
        epoch_log.append(self.folder, metrics)
        self.keep(state)
        self.tell()

    def keep(self, state: Path | None) -> None:
        """Puts the state in the place of the last one."""
        assert state is not None, "a single process is rank 0"
        with durable.renamed(self.folder / STATE) as temporary:
            shutil.copyfile(state / STATE, temporary)

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Shows the step in the progress bar, at most twice a second."""
        if self.progress_file.write(epoch, step, steps):
            self.tell()


def _worker(job: TrainingJob, config: Config, folder: Path, threads: int) -> None:
    """One Ray Train worker."""
    device = ray.train.torch.get_device()
    rows: dict[str, Rows] = {"train": ray.train.get_dataset_shard("train")}
    if device.type == "cpu":
        torch.set_num_threads(threads)
    with suppress(KeyError):
        rows["validation"] = ray.train.get_dataset_shard("validation")
    # A warm-started head may have projections for modalities that this corpus lacks: DDP must allow unused parameters.
    # So it must where a batch of a joint model holds no clip with video.
    unused = job.has_head or (job.fusion and config.fusion.start_from is not None)
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": unused}
    wrap = partial(ray.train.torch.prepare_model, parallel_strategy_kwargs=ddp_options)
    _train_in_worker(job, config, rows, RayTrainReporter(folder), device, wrap)


def _train_in_worker(
    job: TrainingJob, config: Config, rows: Mapping[str, Rows], reporter: loop.Reporter, device: torch.device,
    wrap: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run the training loop on a worker's share of every batch; `wrap` makes the model a distributed one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # the same initial weights on every worker
        model = job.build()
    model = wrap(model) if wrap else model.to(device)
    batch_size = job.optimisation.batch_size // reporter.world_size
    steps = -(-(job.train_rows // reporter.world_size) // batch_size) * job.passes_per_epoch
    is_model = job.fusion or job.has_head
    settings = loop.LoopSettings(
        job.optimisation,
        config.train.epochs,
        steps,
        config.seed,
        bf16=_bf16(job.precision, device),
        class_weight_K=job.class_weight_K,
        subsets=is_model,
        section="emovclip" if job.has_head else job.phase,
        objective=config.train.objective if is_model else "available/waf",
        stop_after=job.stop_after,
        augment=job.augment,
        ema=job.ema,
        logit_shift_K=job.logit_shift_K,
        save_every=config.train.save_every_steps,
    )
    if job.fusion:
        clips = cast(FeatureBatch, job.collate(all_rows(rows["train"])))
        if reporter.world_size == 1 and stacked_epochs.is_usable(settings, clips):
            train: loop.TrainEpoch = StackedEpochs(clips, config.fusion)
        else:
            train = loop.by_steps(batches_in_memory(clips, batch_size, config.seed, job.passes_per_epoch))
    else:
        train = loop.by_steps(partial(_train_batches, job, config, rows["train"], batch_size))
    validation = partial(_validation_batches, job, rows.get("validation"), reporter)
    return loop.fit_epochs(model, train, validation, settings, reporter)


def _bf16(precision: str, device: torch.device) -> bool:
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


def _train_batches(
    job: TrainingJob, config: Config, rows: Rows, batch_size: int, epoch: int, steps: int
) -> Iterator[Batch]:
    seed = derived_seed(config.seed, Stream.SHUFFLE_BUFFER, epoch, bits=31)
    tables = in_tables(rows, batch_size, config.train.shuffle_buffer, seed)
    return collated(islice(tables, steps, None), job.collate_of(epoch) if job.collate_of else job.collate)


def _validation_batches(job: TrainingJob, rows: Rows | None, reporter: loop.Reporter, epoch: int) -> Iterable[Batch]:
    """A worker's share of the validation batches: it reads the whole split, because Ray's splitting would drop rows."""
    if rows is None:
        return []
    tables = in_tables(rows, job.optimisation.batch_size)
    return collated(islice(tables, reporter.rank, None, reporter.world_size), job.collate)
