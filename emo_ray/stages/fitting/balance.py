"""What a training job does about classes of different frequency."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from emo_ray.config.model_settings import Optimisation
from emo_ray.stages.fitting.plan import TrainingClips
from emo_ray.training.loss import class_weights, logit_shift, shown_rows


class ClassBalance(NamedTuple):
    """What is done about classes of different frequency: see `training.loss`."""

    class_weight_K: torch.Tensor | None
    logit_shift_K: torch.Tensor | None
    rows: list[int] | None  # of the clips, as often as they are shown

    def shown(self, clip_ids: Sequence[str]) -> Sequence[str]:
        """The clips, each as often as it is shown in an epoch."""
        return clip_ids if self.rows is None else [clip_ids[row] for row in self.rows]


def class_balance(
    settings: Optimisation, clips: TrainingClips, clip_ids: Sequence[str], labels: Sequence[str]
) -> ClassBalance:
    """What is done about the classes of these clips; one that weighs less counts for less, but is shown as often."""
    targets = clips.targets
    weight_B = targets.weights(clip_ids) if targets else None
    label_B = torch.tensor([clips.train[name] for name in clip_ids])
    rows = shown_rows(settings, label_B)
    return ClassBalance(
        class_weights(settings, label_B, labels, weight_B),
        logit_shift(settings, label_B, len(labels), weight_B),
        None if rows is None else rows.tolist(),
    )
