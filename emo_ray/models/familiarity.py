"""How far clips are from those that a model was trained on.

The distance of a modality is the mean over its features of the squared standardised value: 1 on average over training
clips. It is the squared Mahalanobis distance with a diagonal covariance, by which Lee et al. (2018, arXiv 1807.03888)
tell inputs that a network was not trained on, divided by the number of features. It says that a clip is unlike the
training clips, never that it is like them: an encoder may have no feature for what is new.
"""

from collections.abc import Mapping

import numpy as np
import torch

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.fusion import FeatureScaling
from emo_ray.models.head_average import Head, HeadAverage

QUANTILE = 0.99  # of the training clips


def distances(head: Head, batch: FeatureBatch) -> dict[str, np.ndarray]:
    """The distance of each clip by modality, float32 (B,); NaN where the clip lacks it."""
    first = head.heads[0] if isinstance(head, HeadAverage) else head
    assert isinstance(first, FeatureScaling)  # a HeadAverage holds FusionHeads alone
    distance_of = {}
    for m, name in enumerate(MODALITIES):
        if name not in head.project or name not in batch.features:
            distance_of[name] = np.full(len(batch), np.nan, np.float32)
            continue
        present_B = batch.present_BM[:, m]
        standardised_BD = first.standardise(batch.features[name], name, present_B)  # outliers are cut off
        distance_B = standardised_BD.square().mean(dim=1)
        distance_of[name] = distance_B.masked_fill(~present_B, torch.nan).cpu().numpy()
    return distance_of


def bounds(head: Head, training_clips: FeatureBatch) -> dict[str, float]:
    """The distance by modality that 99 % of the training clips with this modality stay below."""
    return {
        name: float(np.nanquantile(distance_B, QUANTILE))
        for name, distance_B in distances(head, training_clips).items()
        if not np.isnan(distance_B).all()
    }


def unfamiliar(distance_of: Mapping[str, float | None], bound_of: Mapping[str, float]) -> dict[str, float]:
    """The modalities of a clip that are farther than the bound, with their distance in bounds, such as 1.5.

    The distance of a modality that the clip lacks is None or NaN.
    """
    return {
        name: distance / bound_of[name]
        for name, distance in distance_of.items()
        if distance is not None and name in bound_of and distance > bound_of[name]
    }
