"""The training loop on clips that are all in memory, as one batch: in one process, without Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from emo_ray.config import Config
from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import Batch, FeatureBatch
from emo_ray.models.fusion import FusionHead, scalings
from emo_ray.models.trainable_state import load_trained
from emo_ray.training import loop
from emo_ray.training.loss import class_weights

_CHUNK = 64  # clips


def fit(
    model: torch.nn.Module, train: Batch, validation: Batch | None, own: Optimisation, config: Config, classes: int,
    passes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Train with the loop and the settings of the train stage, in fp32, and leave the model at its best epoch.

    Without validation clips that is the last one.
    """

    def shuffled_again(epoch: int) -> Iterator[Batch]:
        return shuffled(train, own.batch_size, config.seed, epoch, passes)

    steps = -(-len(train) // own.batch_size) * passes
    weight_K = class_weights(own, train.label_B, classes, train.soft and train.soft.weight_B)
    plan = loop.LoopSettings(own, config.train.epochs, steps, config.seed, class_weight_K=weight_K)
    best = loop.fit(model, shuffled_again, lambda epoch: chunks(validation), plan, loop.PlainReporter())
    load_trained(model, best["model"])
    return best


def fit_head(train: FeatureBatch, validation: FeatureBatch | None, config: Config, classes: int) -> FusionHead:
    """A fusion head for these clips (all with any modality and a label), in evaluation mode.

    Everything it knows of the features' scale and of unknown values comes from the training clips.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = FusionHead(config.fusion, scalings(train), classes)
    fit(head, train, validation, config.fusion, config, classes, config.fusion.passes_per_epoch)
    return head.eval()


def shuffled(batch: Batch, batch_size: int, seed: int, epoch: int, passes: int = 1) -> Iterator[Batch]:
    """An epoch of batches: all clips `passes` times, each time in another order."""
    for index_B in orders(len(batch), seed, epoch, passes):
        yield from (batch.rows(chosen_B) for chosen_B in index_B.split(batch_size))


def orders(clips: int, seed: int, epoch: int, passes: int) -> Iterator[torch.Tensor]:
    """The order of the clips in each pass of an epoch, which nothing else decides."""
    generator = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
    for _ in range(passes):
        yield torch.randperm(clips, generator=generator)


def chunks(batch: Batch | None) -> list[Batch]:
    """A batch in smaller ones, in order; none of no batch."""
    return [] if batch is None else [batch.rows(index_B) for index_B in torch.arange(len(batch)).split(_CHUNK)]


@contextmanager
def own_device(config: Config) -> Iterator[torch.device]:
    """Where a process trains or encodes by itself: on its GPU, else on one core, as a worker does.

    Raises ValueError where a GPU is demanded and there is none.
    """
    there, choice = torch.cuda.is_available(), config.train.use_gpu
    if choice == "yes" and not there:
        raise ValueError(
            "train.use_gpu=yes: found no GPU in the job's own process, expected one: set train.num_workers=1, "
            "so that Ray finds a machine that has one, or train.use_gpu=auto"
        )
    if there and choice != "no":
        try:
            yield torch.device("cuda")
        finally:
            torch.cuda.empty_cache()  # for the actors that come next
    else:
        with one_thread():
            yield torch.device("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """For a process that has one core; and sums over several threads come in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
