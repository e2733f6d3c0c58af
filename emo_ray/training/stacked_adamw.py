"""AdamW for T heads with rates of their own, whose parameters are the rows of a matrix (T, P)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.optim.adamw import adamw

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
# A step of one parameter. `clip` multiplies its gradient; below 0 it stands for a head that takes no step.
_KERNEL = f"""
template <typename T>
void adamw(T value, T gradient, T mean, T square, T clip, T shrink, T rate, T correction,
           T& new_value, T& new_mean, T& new_square) {{
  T clipped = clip * gradient;
  bool stays = clip < T(0);
  new_mean = stays ? mean : mean + T({1 - _BETAS[0]!r}) * (clipped - mean);
  new_square = stays ? square : square + T({1 - _BETAS[1]!r}) * (clipped * clipped - square);
  T step = rate * new_mean / (sqrt(new_square * correction) + T({_EPSILON!r}));
  new_value = stays ? value : shrink * value - step;
}}"""


class Schedule:
    """The learning rates of an epoch's S steps for T heads.

    `rates_TS` holds None for steps that a head does not take, as its epoch is over; `firsts_T` are the steps that the
    heads have taken in earlier epochs. On a GPU all is put there at once: a copy for each step would wait for the step
    before.
    """

    def __init__(
        self, rates_TS: Sequence[Sequence[float | None]], firsts_T: Sequence[int], decays_T: Sequence[float],
        device: torch.device,
    ):  # fmt: skip
        self.rates_ST, self.firsts_T, self.decays_T = list(zip(*rates_TS, strict=True)), firsts_T, decays_T
        rate_ST1 = torch.tensor([[rate or 0.0 for rate in rates] for rates in self.rates_ST])[..., None]
        is_live_ST1 = torch.tensor([[rate is not None for rate in rates] for rates in self.rates_ST])[..., None]
        steps_ST1 = (torch.arange(1, len(rate_ST1) + 1)[:, None, None] + torch.tensor(firsts_T)[:, None]).double()
        self.is_live_ST1 = is_live_ST1.to(device)
        self.shrink_ST1 = (1 - rate_ST1 * torch.tensor(decays_T)[:, None]).to(device)
        self.rate_ST1 = (rate_ST1 / (1 - _BETAS[0] ** steps_ST1)).float().to(device)
        self.correction_ST1 = (1 / (1 - _BETAS[1] ** steps_ST1)).float().to(device)


def step(
    schedule: Schedule, number: int, value_TP: torch.Tensor, grad_TP: torch.Tensor,
    moments_TP: list[torch.Tensor], clip_T1: torch.Tensor, decaying: int,
) -> None:  # fmt: skip
    """Clip the gradients and take step `number` of the schedule, in place; the first `decaying` columns decay."""
    # AdamW decays a whole row. What should not decay is divided by the same factor before, which passes over less.
    value_TP[:, decaying:].div_(schedule.shrink_ST1[number])
    if value_TP.device.type == "cpu":
        grad_TP.mul_(clip_T1)
        rows = zip(value_TP, grad_TP, *moments_TP, strict=True)
        heads = zip(schedule.rates_ST[number], schedule.decays_T, schedule.firsts_T, strict=True)
        for row, (lr, decay, first) in zip(rows, heads, strict=True):
            if lr is not None:
                _step_of_one(row, lr, decay, first + number)
    else:
        columns = (schedule.shrink_ST1, schedule.rate_ST1, schedule.correction_ST1)
        clip_T1 = torch.where(schedule.is_live_ST1[number], clip_T1, -1.0)
        state = _kernel()(value_TP, grad_TP, *moments_TP, clip_T1, *(column_ST1[number] for column_ST1 in columns))
        value_TP.copy_(state[0])  # other tensors are views of it
        moments_TP[:] = state[1:]


@cache
def _kernel() -> Any:
    """AdamW's step in one pass over memory, where torch's operators take twelve. CUDA's own compiler makes it."""
    return torch.cuda.jiterator._create_multi_output_jit_fn(_KERNEL, num_outputs=3)


def _step_of_one(row: Sequence[torch.Tensor], lr: float, weight_decay: float, number: int) -> None:
    """AdamW's step number `number` (from 0) on the parameters, gradients and two moments of one head, in place."""
    parameters, gradients, mean, square = row
    beta1, beta2 = _BETAS
    adamw(
        [parameters], [gradients], [mean], [square], [], [torch.tensor(float(number))],
        fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=lr, weight_decay=weight_decay, eps=_EPSILON,
        maximize=False,
    )  # fmt: skip
