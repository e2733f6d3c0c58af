"""The parameters of T fusion heads of one shape, and how each of them is trained.

All parameters of a head lie in one row of a matrix (T, P), so that the gradient norm and AdamW pass over it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.models.fusion import FusionHead
from emo_ray.training.stacked_forward import stack, stacked, transposed_weight

_PIECES = ("project", "mix")  # of several parameters: see `StackedParameters.views`


class StackedParameters:
    """The parameters of T heads and AdamW's two moments of them, as rows (T, P).

    `modalities` are those of which any clip here has features.
    """

    def __init__(self, heads: Sequence[FusionHead], modalities: Sequence[str], device: torch.device):
        self.modalities = [name for name in MODALITIES if name in modalities]
        parameters = {name: value.to(device) for name, value in stack(heads).items()}
        # A warm-started head may know modalities that no clip here has: their projections stay as they are.
        idle = tuple(f"project.{name}." for name in MODALITIES if name not in modalities)
        self.idle = {name: parameters.pop(name) for name in list(parameters) if name.startswith(idle)}
        # Matrices come first: they alone decay.
        matrices_first = sorted(parameters, key=lambda name: (-parameters[name].ndim, *_order(name)))
        self.shapes = {name: parameters[name].shape[1:] for name in matrices_first}
        self.decaying = sum(shape.numel() for shape in self.shapes.values() if len(shape) > 1)
        self.flat_TP = self.flat(parameters)
        self.moments_TP = [torch.zeros_like(self.flat_TP) for _ in range(2)]

    def select(self, index_T: torch.Tensor) -> None:
        """Keep some of the heads alone."""
        self.flat_TP = self.flat_TP[index_T]
        self.moments_TP = [moment_TP[index_T] for moment_TP in self.moments_TP]
        self.idle = {name: value[index_T] for name, value in self.idle.items()}

    def tensors(self, index_T: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The parameters of all heads, or of some, by name: see `views`."""
        if index_T is None:
            return self.views(self.flat_TP) | self.idle
        return self.views(self.flat_TP[index_T]) | {name: value[index_T] for name, value in self.idle.items()}

    def set_moments(self, moments: Sequence[Sequence[Mapping[str, torch.Tensor]]]) -> None:
        """Take over the first moments of all heads, then the second ones, by the names of the parameters."""
        self.moments_TP = [self.flat(stacked(moment_T)).to(self.flat_TP.device) for moment_T in moments]

    def of_head(self, tensors: Mapping[str, torch.Tensor], place: int) -> dict[str, torch.Tensor]:
        """A copy of what is one head's, on the CPU, as `FusionHead` lays it out.

        AdamW's fused step takes it for granted that moments lie in memory as their parameters do.
        """
        return {
            name: transposed_weight(name, value[place]).cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
            if name not in _PIECES
        }

    def flat(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The trained parameters of T heads, or what is of their shapes, as rows (T, P)."""
        return torch.cat([tensors[name].flatten(1) for name in self.shapes], dim=1)

    def places(self) -> dict[str, int]:
        """Where in a row each parameter begins."""
        ends = torch.tensor([0, *(shape.numel() for shape in self.shapes.values())]).cumsum(0).tolist()
        return dict(zip(self.shapes, ends, strict=False))

    def views(self, flat_TP: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name, and the vectors of all projections and of the mix in one piece each."""
        parts = flat_TP.split([shape.numel() for shape in self.shapes.values()], dim=1)
        views = {name: part.view(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        vectors_TV = flat_TP[:, self.decaying :]
        projections, hidden = 3 * len(self.modalities), views["absent_MH"].shape[-1]
        shape = 3, len(self.modalities), hidden
        views["project"] = vectors_TV[:, : projections * hidden].unflatten(1, shape).permute(1, 2, 0, 3)
        mix_TV = vectors_TV[:, projections * hidden : (projections + 3) * hidden]
        views["mix"] = mix_TV.unflatten(1, (3, hidden)).transpose(0, 1)
        return views


@dataclass(frozen=True)
class StackedSettings:
    """How each of T heads is trained."""

    max_norm_T1: torch.Tensor
    dropout_T11: torch.Tensor
    smoothing_T11: torch.Tensor
    class_weight_T1K: torch.Tensor
    logit_shift_T1K: torch.Tensor

    @classmethod
    def of(
        cls, settings_T: Sequence[Fusion], balances_T: Sequence[tuple[torch.Tensor, torch.Tensor]], device: torch.device
    ) -> "StackedSettings":  # fmt: skip
        """The settings of heads; `balances_T` are their class weights and shifts of logits (K,)."""

        def column(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, device=device)[:, None]

        weights, shifts = zip(*balances_T, strict=True)
        return cls(
            column([settings.grad_clip_norm for settings in settings_T]),
            column([settings.dropout for settings in settings_T])[..., None],
            column([settings.label_smoothing for settings in settings_T])[..., None],
            torch.stack(weights).to(device)[:, None],
            torch.stack(shifts).to(device)[:, None],
        )


def _order(name: str) -> tuple:
    """Where a parameter lies: vectors of projections first, then of the mix, each kind of vector by modality."""
    first, _, rest = name.partition(".")
    if first == "project":
        modality, _, vector = rest.partition(".")
        return 0, vector, MODALITIES.index(modality)
    return 1 if first == "mix" else 2, rest, first
