"""A small head's settings, and clips of features that it can learn from, with all that real ones have."""

from dataclasses import replace

import torch

from emo_ray.config import load
from emo_ray.data.batch import Context, FeatureBatch, SoftTargets

EPOCHS = 3
CONFIG = load(
    "mini", {"train.epochs": EPOCHS, "fusion.hidden": 12, "fusion.batch_size": 16, "fusion.passes_per_epoch": 2}
)
SIZES = {"video": 5, "audio": 3, "text": 7}


def clips(count, seed, soft=False):
    """Clips with absent modalities, an unknown value, and classes of different frequency."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 6, (count,), generator=generator) % 4
    features = {
        name: torch.randn(count, size, generator=generator) + 2 * torch.eye(4, size)[label]
        for name, size in SIZES.items()
    }
    features["audio"][1, 2] = torch.nan
    present = torch.rand(count, 3, generator=generator) < 0.8
    present[~present.any(dim=1)] = True
    batch = FeatureBatch(clip_ids=tuple(map(str, range(count))), present_BM=present, label_B=label, features=features)
    if not soft:
        return batch
    weight = 0.1 + torch.rand(count, generator=generator)
    return replace(
        batch,
        soft=SoftTargets(target_BK=torch.rand(count, 4, generator=generator).softmax(dim=1), weight_B=weight),
    )


def in_dialogues(batch, seed, offsets=(-3, -2, -1, 1)):
    """The clips with neighbours among others, some without labels: about half of the places have one."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(batch), len(offsets)
    others = clips(120, 100 + seed)
    place = torch.randint(0, 120, shape, generator=generator).where(torch.rand(shape, generator=generator) < 0.5, -1)
    place[:5] = -1  # the ends of dialogues, and clips of none
    speaker = torch.randint(0, 3, shape, generator=generator)
    return replace(batch, context=Context(clips=others, offsets=offsets, place_BN=place, speaker_BN=speaker))
