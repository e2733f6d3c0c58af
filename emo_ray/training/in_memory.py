"""The training loop in one process, without Ray, on clips that are all in memory as one batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from emo_ray.config import Config
from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import Batch, BatchT, FeatureBatch, VideoBatch
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.models.trainable_state import load_trained
from emo_ray.training import loop
from emo_ray.training.divergence import diverged
from emo_ray.training.loss import class_weights, logit_shift, shown_rows
from emo_ray.training.seeds import Stream, derived_seed

if TYPE_CHECKING:
    from emo_ray.training.augmentation import Augmentation

_CHUNK = 64  # clips


def fit(
    model: torch.nn.Module, train: Batch, validation: Batch | None, optimisation: Optimisation, config: Config,
    classes: int, passes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Train with the loop and the settings of the train stage, in fp32, and leave the model at its best epoch.

    Without validation clips that is the last one. Raises ValueError where training diverges
    before its last epoch: the callers compare whole runs with each other.
    """

    weight_B = None if train.soft is None else train.soft.weight_B
    weight_K = class_weights(optimisation, train.label_B, tuple(map(str, range(classes))), weight_B)
    shift_K = logit_shift(optimisation, train.label_B, classes, weight_B)
    if (rows := shown_rows(optimisation, train.label_B)) is not None:
        train = train.rows(rows)
    steps = -(-len(train) // optimisation.batch_size) * passes
    is_fusion = optimisation is config.fusion
    settings = loop.LoopSettings(
        optimisation,
        config.train.epochs,
        steps,
        config.seed,
        class_weight_K=weight_K,
        subsets=is_fusion,
        objective=config.train.objective if is_fusion else "available/waf",
        logit_shift_K=shift_K,
        augment=_augmentation(train, config),
        ema=0.0 if is_fusion else config.train.ema,
    )
    reporter = loop.PlainReporter()
    batches = batches_in_memory(train, optimisation.batch_size, config.seed, passes)
    best = loop.fit(model, batches, lambda epoch: chunks(validation), settings, reporter)
    if len(reporter.history) < config.train.epochs:
        raise ValueError(diverged(settings.section, optimisation.lr, len(reporter.history)))
    load_trained(model, best["model"])
    return best


def _augmentation(train: Batch, config: Config) -> "Augmentation | None":
    """What changes training frames; None where there are none or they stay as they are."""
    if not (isinstance(train, VideoBatch) and config.augment.is_used):
        return None
    from emo_ray.training.augmentation import Augmentation  # torchvision takes seconds to import

    return Augmentation(config.augment, train.frames_BTCHW.shape[-1], config.seed)


def fit_head(train: FeatureBatch, validation: FeatureBatch | None, config: Config, classes: int) -> FusionHead:
    """A trained fusion head in evaluation mode, for clips that all have a label and at least one modality.

    Its scaling of features, and what it takes for unknown values, come from the training clips alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rates_of = feature_rates(train, config.fusion.feature_dropout)
        head = FusionHead(config.fusion, scalings(train), classes, rates_of)
    fit(head, train, validation, config.fusion, config, classes, config.fusion.passes_per_epoch)
    return head.eval()


def batches_in_memory(batch: BatchT, batch_size: int, seed: int, passes: int) -> loop.TrainBatches:
    """A function that gives `loop.fit` an epoch's batches after the first few, which cost next to nothing to skip."""

    def after(epoch: int, steps: int) -> Iterator[BatchT]:
        return islice(shuffled(batch, batch_size, seed, epoch, passes), steps, None)

    return after


def shuffled(batch: BatchT, batch_size: int, seed: int, epoch: int, passes: int = 1) -> Iterator[BatchT]:
    """An epoch of batches: all clips `passes` times, each time in another order."""
    for index_B in orders(len(batch), seed, epoch, passes):
        yield from (batch.rows(part_B) for part_B in index_B.split(batch_size))


def orders(clips: int, seed: int, epoch: int, passes: int) -> Iterator[torch.Tensor]:
    """The order of the clips (B,) in each pass of an epoch; the arguments alone decide it."""
    generator = torch.Generator().manual_seed(derived_seed(seed, Stream.ORDER, epoch))
    for _ in range(passes):
        yield torch.randperm(clips, generator=generator)


def chunks(batch: BatchT | None) -> list[BatchT]:
    """A batch cut into smaller ones, in order; empty for None."""
    return [] if batch is None else [batch.rows(index_B) for index_B in torch.arange(len(batch)).split(_CHUNK)]


@contextmanager
def own_device(config: Config) -> Iterator[torch.device]:
    """The device for training or encoding in this process: its GPU, otherwise one core, as a worker has.

    Raises ValueError where `train.use_gpu` demands a GPU and this process has none.
    """
    has_gpu, use_gpu = torch.cuda.is_available(), config.train.use_gpu
    if use_gpu == "yes" and not has_gpu:
        raise ValueError(
            "train.use_gpu=yes: found no GPU in the job's own process, expected one: set train.num_workers=1, "
            "so that Ray finds a machine that has one, or train.use_gpu=auto"
        )
    if has_gpu and use_gpu != "no":
        try:
            yield torch.device("cuda")
        finally:
            torch.cuda.empty_cache()  # for the actors that come next
    else:
        with one_thread():
            yield torch.device("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit this process to one thread, as it has one core; sums over several threads are added in varying order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
