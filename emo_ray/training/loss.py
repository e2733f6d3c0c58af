"""The training loss: named parts whose sum is minimised."""

import torch
import torch.nn.functional as F

from emo_ray.data.batch import Batch, Output
from emo_ray.settings import Optimisation


def loss(
    output: Output, batch: Batch, label_smoothing: float = 0.0, class_weight_K: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Cross entropy of logits_BK against label_B, with label smoothing and optional class weights."""
    logits_BK = output.logits_BK.float()
    return {
        "cross_entropy": F.cross_entropy(
            logits_BK, batch.label_B, weight=class_weight_K, label_smoothing=label_smoothing
        )
    }


def mass(batch: Batch, class_weight_K: torch.Tensor | None = None) -> torch.Tensor:
    """What the mean in `loss` divides by: the clips of the batch, each as heavy as its class."""
    return torch.ones_like(batch.label_B).sum() if class_weight_K is None else class_weight_K[batch.label_B].sum()


def class_weights(own: Optimisation, label_B: torch.Tensor, classes: int) -> torch.Tensor | None:
    """The K weights that `class_weights` asks for, from the training labels; None for none."""
    return None if own.class_weights == "none" else balanced_weights(label_B, classes)


def balanced_weights(label_B: torch.Tensor, classes: int) -> torch.Tensor:
    """Class weights inversely proportional to frequency, mean 1 over the labels given; absent classes weigh 0."""
    count_K = torch.bincount(label_B, minlength=classes).float()
    found = count_K > 0
    return torch.where(found, len(label_B) / (found.sum() * count_K.clamp(min=1)), 0.0)
