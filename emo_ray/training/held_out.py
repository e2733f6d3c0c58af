"""A fold of cross-validation: its clips are told by what was trained on all others.

All that a head knows it knows from the training clips: scale, the mean that stands for unknown values, its settings
(chosen in inner folds), weights. A process of its own runs this for a fold, so this module imports no more than that
needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from emo_ray.config import Config
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.models.head_average import Head
from emo_ray.training import classical_heads, floors
from emo_ray.training.scoring import shown_only
from emo_ray.training.selection import choose, fit_average
from emo_ray.training.speaker_scaling import standardised


@dataclass(frozen=True)
class FoldTested:
    """What is said of the clips of a fold by what was trained on the others."""

    probabilities: dict[str, np.ndarray]  # subset of the modalities -> (clips, K)
    floors: floors.Guesses  # empty where none were measured
    chosen: str | None  # the settings that inner folds of the training clips chose


def held_out(
    batch: FeatureBatch, tested_B: np.ndarray, config: Config, labels: Sequence[str], groups: Sequence[str]
) -> FoldTested:
    """Probabilities of the tested clips by a head that is trained on all other clips; and the floors.

    `groups` names a group for each clip, of which inner folds divide none.
    """
    mask_B = torch.tensor(tested_B)
    train, tested = standardised(config, batch.rows(~mask_B), [batch.rows(mask_B)])
    inner_groups = [group for group, is_tested in zip(groups, tested_B, strict=True) if not is_tested]
    searches = config.fusion.searches(len(train)) and len(set(inner_groups)) >= INNER_FOLDS
    choice = choose(train, config, labels, True, inner_groups) if searches else None
    head: Head
    if config.fusion.is_classical:
        head = classical_heads.fit(train, config, len(labels), inner_groups)
    else:
        head = fit_average(train, choice.config if choice else config, labels, choice.epochs if choice else None)
    probabilities = {name: shown_only(head, tested, names) for name, names in SUBSETS.items()}
    classical = (
        floors.guesses(train, tested, inner_groups, config.seed) if config.evaluate.has_floors(len(train)) else {}
    )
    return FoldTested(probabilities, classical, choice.settings if choice else None)
