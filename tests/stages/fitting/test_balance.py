"""Classes are balanced by the clips trained on, pseudo-labelled ones among them, in one pass over them."""

import numpy as np
import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.data.pseudo import PseudoLabels
from emo_ray.stages.fitting.balance import class_balance
from emo_ray.stages.fitting.plan import TrainingClips

LABELS = ("happy", "sad")


class Labels(dict):
    """Labels that count how often all of them are read."""

    readings = 0

    def __iter__(self):
        self.readings += 1
        return super().__iter__()

    def keys(self):
        return list(self)


def test_predicted_classes_count_and_the_clips_are_read_once():
    labelled = Labels({f"clip-{i}": 0 for i in range(30)})
    predicted = {f"pseudo-{i}": 1 for i in range(10)}
    targets = {name: np.array([0.1, 0.9], np.float32) for name in predicted}
    clips = TrainingClips(labelled, {}, PseudoLabels(LABELS, targets, predicted, 1.0, 0, "teacher"))
    settings = Fusion(class_weights="balanced")
    balance = class_balance(settings, clips, [*labelled, *predicted], LABELS)
    assert labelled.readings <= 2  # not once a clip
    weight_K = balance.class_weight_K
    torch.testing.assert_close(weight_K[1] / weight_K[0], torch.tensor(3.0))
    assert set(clips.all_clips) == {*labelled, *predicted}
