"""Temporal pooling starts as the mean, and can learn the order of frames, which the mean cannot."""

import torch
import torch.nn.functional as F

from emo_ray.models.temporal_pooling import TemporalAttention, recorded


def made(frames=6, width=16):
    torch.manual_seed(0)
    return TemporalAttention(frames, width)


def test_it_starts_as_the_mean_of_the_frames_directions():
    frames_BTD = torch.randn(5, 6, 16)
    assert torch.allclose(made()(frames_BTD), F.normalize(frames_BTD, dim=-1).mean(dim=1))


def test_once_trained_the_order_of_frames_matters():
    pooling, frames_BTD = made(), torch.randn(5, 6, 16)
    torch.nn.init.normal_(pooling.mlp[-1].weight)
    assert not torch.allclose(pooling(frames_BTD), pooling(frames_BTD.flip(1)), atol=1e-3)


def test_clips_do_not_touch_each_other():
    pooling, frames_BTD = made(), torch.randn(5, 6, 16)
    torch.nn.init.normal_(pooling.mlp[-1].weight)
    assert torch.allclose(pooling(frames_BTD)[2:3], pooling(frames_BTD[2:3]), atol=1e-6)


def test_it_learns_what_the_mean_cannot_see():
    """Clips of the same two frames in both orders; the label is the order, so the mean of frames says nothing."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 16, generator=generator)
    noise = 0.3 * torch.randn(200, 6, 16, generator=generator)
    rising = torch.stack([a + (b - a) * t / 5 for t in range(6)])
    label_B = torch.arange(200) % 2
    frames_BTD = torch.where(label_B[:, None, None] == 1, rising, rising.flip(0)) + noise
    pooling, classify = made(), torch.nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*pooling.parameters(), *classify.parameters()], lr=3e-3)
    for _ in range(60):
        loss = F.cross_entropy(classify(pooling(frames_BTD[:100])), label_B[:100])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (classify(pooling(frames_BTD[100:])).argmax(1) == label_B[100:]).float().mean()
    assert accuracy > 0.9


def test_attention_over_frames_is_recorded_batch_by_batch():
    """The weights of each clip sum to 1, and no clip touches another."""
    pooling, frames_BTD = made(), torch.randn(5, 6, 16)
    with recorded(torch.nn.Sequential(pooling)) as weights:
        pooling(frames_BTD)
        pooling(frames_BTD[:2])
    assert [len(weights_BT) for weights_BT in weights] == [5, 2]
    assert torch.allclose(weights[0].sum(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(weights[0][:2], weights[1], atol=1e-6)
    pooling(frames_BTD)
    assert len(weights) == 2  # nothing is kept after the block
    with recorded(object()) as nothing:
        assert nothing == []
