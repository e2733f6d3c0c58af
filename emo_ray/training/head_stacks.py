"""Fusion heads of any settings and folds, trained in stacks of those that agree in shape."""

from collections.abc import Sequence

import numpy as np
import torch

from emo_ray.config.model_settings import SUBSETS
from emo_ray.models.fusion import FusionHead
from emo_ray.training.stacked_clips import Clips, TrainingClips
from emo_ray.training.stacked_heads import SHARED_FIELDS, Epoch, HeadConfig, StackedHeads
from emo_ray.training.stacked_noise import drawn

# For parameters, gradients and moments of heads with neighbours that one core trains together.
_CACHE_BYTES = 36 * 2**20


class Heads:
    """Heads of any settings, in stacks of those that agree in shape.

    `heads` are fresh, each with the scaling of its fold's training clips, all with a label and at least one modality.
    """

    def __init__(
        self, heads: Sequence[FusionHead], configs: Sequence[HeadConfig], folds: Sequence[Clips], epochs: int,
        device: torch.device | None = None,
    ):  # fmt: skip
        device = device or torch.device("cpu")
        shapes: dict[tuple, list[int]] = {}
        for i in sorted(range(len(heads)), key=lambda i: (configs[i].fold, configs[i].seed)):
            shapes.setdefault(_shape(heads[i], configs[i]), []).append(i)
        self.stacks: list[tuple[list[int], StackedHeads]] = []  # with the numbers of the heads
        clips_of: dict[tuple, TrainingClips] = {}  # heads of all widths share them
        for numbers in shapes.values():
            head_of = {configs[i].fold: heads[i] for i in numbers}
            first, settings = heads[numbers[0]], configs[numbers[0]].settings
            key = (tuple(head_of), first.offsets, tuple(first.project), settings.sampling)
            if key not in clips_of:
                clips_of[key] = TrainingClips(folds, head_of, settings, device)
            for part in _even_parts(numbers, at_most=_at_once(first, device)):
                members, configs_T = [heads[i] for i in part], [configs[i] for i in part]
                self.stacks.append((part, StackedHeads(members, configs_T, folds, epochs, clips_of[key], head_of)))

    def select(self, places: Sequence[int]) -> None:
        """Keep some of the heads alone: their places, in order."""
        place_of = {place: i for i, place in enumerate(places)}
        stacks, self.stacks = self.stacks, []
        for numbers, stacked in stacks:
            kept = [i for i, number in enumerate(numbers) if number in place_of]
            if len(kept) < len(numbers) and kept:
                stacked.select(kept)
            if kept:
                self.stacks.append(([place_of[numbers[i]] for i in kept], stacked))

    def state(self, place: int) -> dict[str, torch.Tensor]:
        """A copy of the parameters of one head, by the names that `FusionHead` gives them."""
        numbers, stacked = next(each for each in self.stacks if place in each[0])
        return stacked.state(numbers.index(place))

    def epoch(self, subsets: Sequence[str] | None = tuple(SUBSETS)) -> list[Epoch]:
        """Train every head for its next epoch, and validate it on `subsets` of the modalities; None: not at all."""
        epoch_of: dict[int, Epoch] = {}
        for numbers, stacked in self.stacks:
            epoch_of.update(zip(numbers, stacked.epoch(subsets), strict=True))
        drawn.cache_clear()  # no stack asks for this epoch's noise again, which may be half a gigabyte
        return [epoch_of[place] for place in sorted(epoch_of)]


def _shape(head: FusionHead, config: HeadConfig) -> tuple:
    """What heads of one stack agree in."""
    fields = *(getattr(config.settings, name) for name in SHARED_FIELDS), config.members
    return *fields, isinstance(config.settings.modality_dropout, dict), tuple(head.project), tuple(head.feature_rates)


def _at_once(head: FusionHead, device: torch.device) -> int:
    """How many heads of this shape are trained together: all, but on a CPU heads with neighbours as its cache holds."""
    if device.type != "cpu" or not head.offsets:
        return 2**31
    state_bytes = 16 * sum(parameter.numel() for parameter in head.parameters())  # with gradient and two moments
    return max(1, _CACHE_BYTES // state_bytes)


def _even_parts(numbers: Sequence[int], at_most: int) -> list[list[int]]:
    return [list(part) for part in np.array_split(numbers, -(-len(numbers) // at_most))]
