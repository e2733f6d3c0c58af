"""What tests of the training loop share: a small head, its clips, and a reporter that keeps states and can fail."""

import shutil

import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.fusion import FusionHead
from emo_ray.training.loop import TIMES, LoopSettings, PlainReporter

HEAD = Fusion(hidden=16, lr=3e-3, batch_size=16)
CENTRES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def make_batch(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (rows,), generator=generator)
    features = {m: CENTRES[label] + torch.randn(rows, 6, generator=generator) for m in MODALITIES}
    return FeatureBatch(
        clip_ids=tuple(map(str, range(rows))),
        present_BM=torch.ones(rows, 3, dtype=torch.bool),
        label_B=label,
        features=features,
    )


def model():
    torch.manual_seed(0)
    return FusionHead(HEAD, {m: torch.stack([torch.zeros(6), torch.ones(6)]) for m in MODALITIES}, 3)


def train(epoch, steps=0):
    return [make_batch(16, 100 * epoch + i) for i in range(steps, 6)]


def validation(epoch):
    return [make_batch(40, 9_999)]


def plan(epochs):
    return LoopSettings(HEAD, epochs=epochs, steps_per_epoch=6, seed=3)


class Keeping(PlainReporter):
    """A reporter that keeps every state in a folder, can restore one, and can fail after an epoch or a step of one."""

    def __init__(self, folder, restored=None, dies_after=None, dies_at=None):
        super().__init__()
        self.folder, self.restored, self.dies_after, self.dies_at = folder, restored, dies_after, dies_at

    def restore(self):
        return self.restored

    def report(self, metrics, state):
        super().report(metrics, state)
        shutil.copytree(state, self.folder / str(metrics["epoch"]))
        if metrics["epoch"] == self.dies_after:
            raise KeyboardInterrupt

    def keep(self, state):
        shutil.copytree(state, self.folder / "inside", dirs_exist_ok=True)

    def progress(self, epoch, step, steps):
        if (epoch, step) == self.dies_at:
            raise KeyboardInterrupt


def timeless(metrics):
    """The metrics of an epoch that do not tell how long it took."""
    return {k: v for k, v in metrics.items() if k not in TIMES}
