"""Augmentation: frames of a clip change alike, as seed, epoch and clip decide, at the rates of the config."""

import pytest
import torch

from emo_ray.config.train_settings import Augment
from emo_ray.data.batch import VideoBatch, unlabelled
from emo_ray.training.augmentation import Augmentation

RATES = list(Augment.model_fields)
ALL = Augment(**dict.fromkeys(RATES, 0.7))
SIDE = 96


def batch_of(clip_ids, frames=2):
    """Clips whose frames are all the same picture: a gradient with a square."""
    picture = torch.linspace(0, 255, SIDE).expand(3, SIDE, SIDE).clone()
    picture[0, 12:36, 6:27] = 200
    picture[2, 60:, 60:] = 30
    frames_BTCHW = picture.to(torch.uint8).expand(len(clip_ids), frames, 3, SIDE, SIDE)
    present_BM = torch.ones(len(clip_ids), 3, dtype=torch.bool)
    label_B = unlabelled(len(clip_ids))
    return VideoBatch(clip_ids=clip_ids, present_BM=present_BM, label_B=label_B, frames_BTCHW=frames_BTCHW)


CLIPS = tuple(f"clip {i}" for i in range(120))


def changed(settings, clip_ids=CLIPS, seed=0, epoch=0):
    return Augmentation(settings, SIDE, seed)(batch_of(clip_ids), epoch).frames_BTCHW


def test_frames_of_a_clip_are_changed_alike_and_clips_in_their_own_ways():
    frames_BTCHW = changed(ALL)
    assert (frames_BTCHW.shape, frames_BTCHW.dtype) == (batch_of(CLIPS).frames_BTCHW.shape, torch.uint8)
    assert (frames_BTCHW == frames_BTCHW[:, :1]).all()
    assert len(frames_BTCHW[:, 0].flatten(1).unique(dim=0)) > 0.9 * len(CLIPS)


def test_seed_epoch_and_clip_alone_decide():
    whole = changed(ALL)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(changed(ALL, CLIPS[::-1][:30]), whole.flip(0)[:30])
    assert torch.equal(torch.rand(3), drawn)  # and nothing else that draws is disturbed
    for others in (changed(ALL, seed=1), changed(ALL, epoch=1)):
        assert (others != whole).flatten(1).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("name", RATES)
def test_a_rate_is_the_share_of_clips_that_a_change_befalls(name):
    original = batch_of(CLIPS).frames_BTCHW
    share = (changed(Augment(**{name: 0.3})) != original).flatten(1).any(dim=1).float().mean()
    assert share == pytest.approx(0.3, abs=0.12)


def test_a_mirror_is_a_mirror_and_nothing_is_nothing():
    original = batch_of(CLIPS[:5]).frames_BTCHW
    assert torch.equal(changed(Augment(flip=1), CLIPS[:5]), original.flip(-1))
    assert torch.equal(changed(Augment(), CLIPS[:5]), original)
