"""The uniform noise of a fusion head's training steps: what the loop would draw from its generator, step after step."""

from functools import lru_cache

import torch

from emo_ray.training.seeds import Stream, derived_seed

_BYTES = 16 * 2**20  # drawn at once for heads of one seed and fold


@lru_cache(maxsize=8)
def drawn(seed: int, epoch: int, draws: int, columns: int) -> torch.Tensor:
    """The noise (V, N) of an epoch, as the loop draws it step by step; stacks of one width share it."""
    return torch.rand(draws, columns, generator=generator_of(seed, epoch))


def generator_after(seed: int, epoch: int, draws: int, columns: int) -> torch.Tensor:
    """The state of the loop's random generator inside an epoch, after so many rows of its noise."""
    generator, at_once = generator_of(seed, epoch), rows_at_once(columns)
    for first in range(0, draws, at_once):
        torch.rand(min(at_once, draws - first), columns, generator=generator)
    return generator.get_state()


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """The generator of the first worker at the start of an epoch, as `RunState.epoch_under_way` seeds it."""
    return torch.Generator().manual_seed(derived_seed(seed, Stream.NOISE, epoch, 0))


def rows_at_once(columns: int) -> int:
    """How many rows of so many random numbers are drawn at once."""
    return max(1, _BYTES // (4 * columns))
