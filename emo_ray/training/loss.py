"""The training loss: named parts whose sum is minimised."""

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import Batch, Output


def loss(
    output: Output, batch: Batch, label_smoothing: float = 0.0, class_weight_K: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Cross entropy of logits_BK against label_B, or against the soft targets with their weights, if there are any.

    Label smoothing and class weights are torch's own. The mean is over `mass`, so that a one-hot target with weight 1
    is the same as its label. For an average of heads the parts are sums over the heads.
    """
    if output.each:
        values = [loss(head, batch, label_smoothing, class_weight_K) for head in output.each]
        return {name: torch.stack([value[name] for value in values]).sum() for name in values[0]}
    logits_BK = output.logits_BK.float()
    if batch.soft is None:
        value = F.cross_entropy(logits_BK, batch.label_B, weight=class_weight_K, label_smoothing=label_smoothing)
        return {"cross_entropy": value}
    each_B = F.cross_entropy(
        logits_BK, batch.soft.target_BK, weight=class_weight_K, reduction="none", label_smoothing=label_smoothing
    )
    return {"cross_entropy": (batch.soft.weight_B * each_B).sum() / mass(batch, class_weight_K)}


def mass(batch: Batch, class_weight_K: torch.Tensor | None = None) -> torch.Tensor:
    """The divisor of the mean in `loss`: the sum over clips of the clip's weight times the weight of its classes."""
    if batch.soft is not None:
        heavy_B = 1.0 if class_weight_K is None else batch.soft.target_BK @ class_weight_K
        return (batch.soft.weight_B * heavy_B).sum()
    return torch.ones_like(batch.label_B).sum() if class_weight_K is None else class_weight_K[batch.label_B].sum()


def class_weights(
    optimisation: Optimisation, label_B: torch.Tensor, classes: int, weight_B: torch.Tensor | None = None
) -> torch.Tensor | None:
    """The K weights that the setting `class_weights` asks for, from the training labels; None for equal weights."""
    return None if optimisation.class_weights == "none" else balanced_weights(label_B, classes, weight_B)


def balanced_weights(label_B: torch.Tensor, classes: int, weight_B: torch.Tensor | None = None) -> torch.Tensor:
    """Class weights inversely proportional to frequency, mean 1 over the given labels; absent classes weigh 0.

    `weight_B` is how much each clip counts. A pseudo-labelled clip counts for its predicted class alone, and not for
    others that its probabilities name: a class that they hardly name would get a huge weight.
    """
    count_K = torch.bincount(label_B, weight_B, minlength=classes).float()
    occurs_K = count_K > 0
    return torch.where(occurs_K, count_K.sum() / (occurs_K.sum() * torch.where(occurs_K, count_K, 1.0)), 0.0)
