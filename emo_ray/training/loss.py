"""The training loss: named parts whose sum is minimised."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import Batch, Output


def loss(
    output: Output, batch: Batch, label_smoothing: float = 0.0, class_weight_K: torch.Tensor | None = None,
    logit_shift_K: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Cross entropy of logits_BK against label_B, or against the soft targets with their weights, if there are any.

    Label smoothing and class weights are torch's own; `logit_shift_K` is added to the logits. The mean is over `mass`,
    so that a one-hot target with weight 1 is the same as its label. For an average of heads the parts are sums over the
    heads.
    """
    if output.each:
        values = [loss(head, batch, label_smoothing, class_weight_K, logit_shift_K) for head in output.each]
        return {name: torch.stack([value[name] for value in values]).sum() for name in values[0]}
    logits_BK = output.logits_BK.float()
    if logit_shift_K is not None:
        logits_BK = logits_BK + logit_shift_K
    if batch.soft is None:
        value = F.cross_entropy(logits_BK, batch.label_B, weight=class_weight_K, label_smoothing=label_smoothing)
        return {"cross_entropy": value}
    each_B = F.cross_entropy(
        logits_BK, batch.soft.target_BK, weight=class_weight_K, reduction="none", label_smoothing=label_smoothing
    )
    return {"cross_entropy": (batch.soft.weight_B * each_B).sum() / divisor(mass(batch, class_weight_K))}


def divisor(mass: torch.Tensor) -> torch.Tensor:
    """The mass of clips, or 1 where they weigh nothing, as where votes name classes of weight 0: their loss is 0."""
    return mass + (mass == 0)


def mass(batch: Batch, class_weight_K: torch.Tensor | None = None) -> torch.Tensor:
    """The divisor of the mean in `loss`: the sum over clips of the clip's weight times the weight of its classes."""
    if batch.soft is not None:
        heavy_B = 1.0 if class_weight_K is None else batch.soft.target_BK @ class_weight_K
        return (batch.soft.weight_B * heavy_B).sum()
    return torch.ones_like(batch.label_B).sum() if class_weight_K is None else class_weight_K[batch.label_B].sum()


def class_weights(
    optimisation: Optimisation, label_B: torch.Tensor, labels: Sequence[str], weight_B: torch.Tensor | None = None
) -> torch.Tensor | None:
    """The K weights that the setting `class_weights` asks for, from the training labels; None for equal weights.

    Raises ValueError where the setting names other classes than all of `labels`.
    """
    setting = optimisation.class_weights
    if setting == "none":
        return None
    if setting == "balanced":
        return balanced_weights(label_B, len(labels), weight_B)
    if set(setting) != set(labels):
        raise ValueError(
            f"class_weights: found weights of {', '.join(sorted(setting))}, expected one of each class: "
            f"{', '.join(labels)}"
        )
    return torch.tensor([setting[label] for label in labels])


def logit_shift(
    optimisation: Optimisation, label_B: torch.Tensor, classes: int, weight_B: torch.Tensor | None = None
) -> torch.Tensor | None:
    """What training adds to the K logits: `logit_adjustment` times the logarithm of the classes' shares; None for 0.

    Logit adjustment in the loss, Menon et al. (2021), equation 10. A class without clips counts as if it had one.
    """
    if not optimisation.logit_adjustment:
        return None
    count_K = torch.bincount(label_B, weight_B, minlength=classes).float().clamp(min=1)
    return optimisation.logit_adjustment * (count_K / count_K.sum()).log()


def shown_rows(optimisation: Optimisation, label_B: torch.Tensor) -> torch.Tensor | None:
    """The rows that a pass over the training clips shows, int64; None where it shows each once.

    Balanced sampling repeats each class's rows, as evenly as can be, up to the number of the most frequent class: so no
    clip is left out, and an epoch is longer.
    """
    if optimisation.sampling == "natural":
        return None
    rows_of = [(label_B == k).nonzero().flatten() for k in label_B.unique()]
    most = max(map(len, rows_of))
    return torch.cat([rows[torch.arange(most) * len(rows) // most] for rows in rows_of])


def balanced_weights(label_B: torch.Tensor, classes: int, weight_B: torch.Tensor | None = None) -> torch.Tensor:
    """Class weights inversely proportional to frequency, mean 1 over the given labels; absent classes weigh 0.

    `weight_B` is how much each clip counts. A pseudo-labelled clip counts for its predicted class alone, and not for
    others that its probabilities name: a class that they hardly name would get a huge weight.
    """
    count_K = torch.bincount(label_B, weight_B, minlength=classes).float()
    occurs_K = count_K > 0
    return torch.where(occurs_K, count_K.sum() / (occurs_K.sum() * torch.where(occurs_K, count_K, 1.0)), 0.0)


def losses(
    logits_TBK: torch.Tensor, target_TBK: torch.Tensor, weight_TB: torch.Tensor, smoothing_T11: torch.Tensor,
    class_weight_T1K: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The loss of each of T heads, as `loss` has it, and the gradients of their logits.

    Each head has its own clips, smoothing and class weights. Both are 0 for a head all of whose clips weigh nothing.
    """
    mass_T = (weight_TB * (target_TBK * class_weight_T1K).sum(dim=-1)).sum(dim=-1)
    share_TB = weight_TB / divisor(mass_T)[:, None]
    weighted_TBK = torch.lerp(target_TBK, smoothing_T11.new_tensor(1 / target_TBK.shape[-1]), smoothing_T11)
    weighted_TBK = weighted_TBK * class_weight_T1K
    log_probability_TBK = logits_TBK.log_softmax(dim=-1)
    loss_T = -(share_TB * (weighted_TBK * log_probability_TBK).sum(dim=-1)).sum(dim=-1)
    gradient_TBK = log_probability_TBK.exp() * weighted_TBK.sum(dim=-1, keepdim=True) - weighted_TBK
    return loss_T, gradient_TBK * share_TB[..., None]
