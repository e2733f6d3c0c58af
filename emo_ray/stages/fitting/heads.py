"""Heads once they are trained: their weights in place, what they reach on validation clips, and their calibration."""

from collections.abc import Mapping
from typing import Any

import torch

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.prepared import Prepared
from emo_ray.data.splits import grouped
from emo_ray.models.checkpoint_files import FittedTemperature
from emo_ray.models.classical_head import ClassicalHead
from emo_ray.models.fusion import FusionHead
from emo_ray.models.head_average import Head, HeadAverage
from emo_ray.models.trainable_state import load_trained, trained_state
from emo_ray.stages.fitting.ray_train import TrainingJob
from emo_ray.training import calibration, classical_heads
from emo_ray.training.in_memory import one_thread
from emo_ray.training.metrics import validation_metrics
from emo_ray.training.scoring import shown_only
from emo_ray.training.selection import Choice, judged


def classical(
    config: Config, prepared: Prepared, train: FeatureBatch, validation: FeatureBatch
) -> tuple[ClassicalHead, dict[str, Any]]:
    """A classical head and what `ray_train.train` would return of it: one epoch, measured on the validation clips."""
    classes = len(prepared.labels)
    groups = grouped(prepared.clips_of(train.clip_ids)).names
    with one_thread():
        head = classical_heads.fit(train, config, classes, groups)
    metrics: dict[str, Any] = {"epoch": 0}
    if len(validation):
        counts_SKK, loss_sum, _ = judged(head, validation, classes)
        metrics |= validation_metrics(counts_SKK, loss_sum, tuple(SUBSETS))
    return head, {"model": trained_state(head), "metrics": metrics, "epoch": 0, "history": [metrics], "planned": 1}


def with_weights(job: TrainingJob, best: Mapping[str, Any]) -> FusionHead | HeadAverage:
    """The trained head of a job."""
    head = job.build()
    assert isinstance(head, FusionHead | HeadAverage), "a job of phase fusion builds a head"
    load_trained(head, best["model"])
    return head


def calibration_on(head: Head, clips: FeatureBatch) -> FittedTemperature | None:
    """The temperature of a head's probabilities on validation clips, shown all modalities that each has."""
    learnt_M = torch.tensor([name in head.project for name in MODALITIES])
    usable = clips.rows((clips.present_BM & learnt_M).any(dim=1))
    probability_BK = shown_only(head.eval(), usable, MODALITIES)
    return calibration.fitted(probability_BK, usable.label_B.numpy(), "validation")


def calibration_of_choice(choice: Choice) -> FittedTemperature | None:
    """The temperature of what heads of the inner folds said of the clips that each had not seen.

    Such a head is trained on fewer clips than the model, and alone where the model is an average of heads.
    """
    out_of_fold = choice.out_of_fold
    return calibration.fitted(out_of_fold.probability_BK, out_of_fold.label_B, "inner folds")
