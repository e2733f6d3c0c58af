"""The training steps of T fusion heads at once, in torch's operators: on GPUs, and for heads with neighbours."""

import torch

from emo_ray.training import stacked_adamw as adamw
from emo_ray.training.loss import losses
from emo_ray.training.stacked_clips import Epochs, Visits
from emo_ray.training.stacked_forward import classify, read_neighbours
from emo_ray.training.stacked_parameters import StackedParameters, StackedSettings
from emo_ray.training.stacked_rows import NearRows, Step, rows_of
from emo_ray.training.stacked_trunk import backward, fused


class StackedSteps:
    """Trains T heads on what they visit."""

    def __init__(self, stack: StackedParameters, settings: StackedSettings, epochs: Epochs):
        self.stack, self.settings, self.epochs = stack, settings, epochs
        self.grad_TP = torch.zeros_like(stack.flat_TP)
        self.tensors, self.gradients = stack.tensors(), stack.views(self.grad_TP)

    @torch.no_grad()
    def train(self, visits: Visits, numbers: range, schedule: adamw.Schedule) -> torch.Tensor:
        """Take these of the steps; the loss_TS of each."""
        step = rows_of(self.epochs, visits)
        losses_S = []
        for number in numbers:
            losses_S.append(self._gradients(step(number - visits.first)))
            self._update(schedule, number)
        return torch.stack(losses_S, dim=1)

    def _gradients(self, step: Step) -> torch.Tensor:
        """Put the gradients of all heads into grad_TP; the loss of each (T,)."""
        settings = self.settings
        fused_TRH, passed = fused(self.tensors, step.rows, settings.dropout_T11)
        window = None if step.near is None else _Window(self, step.near, fused_TRH)
        read_TRH = fused_TRH if window is None else window.read_TRH.detach()
        logits_TRK = classify(self.tensors, read_TRH) + settings.logit_shift_T1K
        weighed = step.weight_TR, settings.smoothing_T11, settings.class_weight_T1K
        loss_T, grad_TRK = losses(logits_TRK, step.target_TRK, *weighed)
        torch.sum(grad_TRK, dim=1, out=self.gradients["classify.bias"])
        self.gradients["classify.weight"].copy_(torch.bmm(read_TRH.mT, grad_TRK))
        grad_TRH = torch.bmm(grad_TRK, self.tensors["classify.weight"].mT)
        if window is not None:
            grad_TRH = window.backward(grad_TRH)
        backward(self.tensors, self.gradients, passed, grad_TRH, settings.dropout_T11)
        if window is not None:
            window.backward_near()
        return loss_T

    def _update(self, schedule: adamw.Schedule, number: int) -> None:
        """Clip the gradients and take AdamW's step, as the loop does; `number` is that of the step in its epoch."""
        norm_T1 = torch.linalg.vector_norm(self.grad_TP, dim=1, keepdim=True)
        clip_T1 = (self.settings.max_norm_T1 / (norm_T1 + 1e-6)).clamp(max=1.0)
        stack = self.stack
        adamw.step(schedule, number, stack.flat_TP, self.grad_TP, stack.moments_TP, clip_T1, stack.decaying)


class _Window:
    """A step's clips with what their neighbours add, and the way back: the one part that autograd does."""

    def __init__(self, steps: StackedSteps, near: NearRows, fused_TRH: torch.Tensor):
        self.steps = steps
        near_TXH, self.passed = fused(steps.tensors, near.rows, steps.settings.dropout_T11)
        self.names = [name for name in steps.stack.shapes if name.startswith("neighbours.")]
        with torch.enable_grad():
            leaves = [values.detach().requires_grad_() for values in (fused_TRH, near_TXH)]
            parameters = {name: steps.tensors[name].detach().requires_grad_() for name in self.names}
            near_TRNH = leaves[1].unflatten(1, near.usable_TRN.shape[1:])
            self.read_TRH = read_neighbours(parameters, leaves[0], near_TRNH, near.speaker_TRN, near.usable_TRN)
        self.leaves = [*leaves, *parameters.values()]

    def backward(self, grad_TRH: torch.Tensor) -> torch.Tensor:
        """The gradient of the clips alone; those of the neighbours are kept for `backward_near`."""
        fused_grad_TRH, self.near_grad_TXH, *grads = torch.autograd.grad(self.read_TRH, self.leaves, grad_TRH)
        for name, grad in zip(self.names, grads, strict=True):
            self.steps.gradients[name].copy_(grad)
        return fused_grad_TRH

    def backward_near(self) -> None:
        """Add the neighbours' share of the gradients."""
        steps = self.steps
        backward(steps.tensors, steps.gradients, self.passed, self.near_grad_TXH, steps.settings.dropout_T11, beta=1.0)
