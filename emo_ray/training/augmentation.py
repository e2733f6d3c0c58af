"""Training frames, changed at random by torchvision: every frame of a clip in the same way.

What happens to a clip depends on the seed, the epoch and its clip_id alone: not on the batch that it is in, on the
number of workers, or on what was drawn before a restart.
"""

import math
from dataclasses import replace

import torch

from emo_ray.config.train_settings import Augment
from emo_ray.data.batch import VideoBatch
from emo_ray.training.seeds import Stream, derived_seed, number_of

_CROPPED_AREA = (0.5, 1.0)  # of the picture
_ERASED_AREA = (0.02, 0.2)
_BLUR_SIGMA = (0.004, 0.015)  # of the side of the picture: 1 to 3 pixels of 224


def changes(settings: Augment, side: int) -> list[torch.nn.Module]:
    """torchvision's transforms for square pictures of a side in pixels, in their order."""
    from torchvision.transforms import v2  # a second to import, which heads over features do without

    sigma = (_BLUR_SIGMA[0] * side, _BLUR_SIGMA[1] * side)
    kernel = 2 * math.ceil(2 * sigma[1]) + 1
    crop = v2.RandomResizedCrop(side, scale=_CROPPED_AREA, ratio=(3 / 4, 4 / 3))
    return [
        v2.RandomHorizontalFlip(settings.flip),
        v2.RandomApply([crop], settings.crop),
        v2.RandomApply([v2.ColorJitter(brightness=0.5)], settings.brightness),
        v2.RandomApply([v2.ColorJitter(contrast=0.3, saturation=0.3, hue=0.05)], settings.colour),
        v2.RandomApply([v2.GaussianBlur(kernel, sigma)], settings.blur),
        v2.RandomGrayscale(settings.grey),
        v2.RandomErasing(settings.erase, _ERASED_AREA),
    ]


class Augmentation:
    """Changes the frames of batches. The rates of the changes are those of the config's section `augment`."""

    def __init__(self, settings: Augment, side: int, seed: int):
        """`side`: of the square frames, in pixels."""
        self.changes, self.seed = changes(settings, side), seed

    def __call__(self, batch: VideoBatch, epoch: int) -> VideoBatch:
        """The batch with other frames of the same shape, type and device."""
        with torch.random.fork_rng(devices=[]):  # torchvision draws on the CPU, wherever the frames lie
            frames = [
                self._changed(frames_TCHW, derived_seed(self.seed, Stream.AUGMENTATION, epoch, number_of(clip_id)))
                for clip_id, frames_TCHW in zip(batch.clip_ids, batch.frames_BTCHW, strict=True)
            ]
        return replace(batch, frames_BTCHW=torch.stack(frames))

    def _changed(self, frames_TCHW: torch.Tensor, seed: int) -> torch.Tensor:
        torch.default_generator.manual_seed(seed)
        for change in self.changes:
            frames_TCHW = change(frames_TCHW)
        return frames_TCHW
