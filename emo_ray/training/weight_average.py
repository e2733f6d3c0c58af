"""An exponential moving average of the weights that training changes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a model's trained parameters over the steps of its optimiser.

    An average of n steps weighs the latest by 9 / (10 + n) at least, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float):
        """Averages from now on: after each step of the optimiser the average keeps a share of `decay`."""
        self.decay, self.steps = decay, 0
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.values = {name: value.detach().clone() for name, value in self.trained.items()}
        optimizer.register_step_post_hook(lambda *_: self._update())

    def _update(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        get_ema_multi_avg_fn(decay)(list(self.values.values()), list(self.trained.values()), self.steps)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model while the block runs."""
        latest = {name: parameter.data for name, parameter in self.trained.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(latest)

    def state(self) -> dict[str, Any]:
        """What `load` takes, on the CPU."""
        return {"steps": self.steps, "values": {name: value.cpu().clone() for name, value in self.values.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.steps = state["steps"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.data = values[name]
