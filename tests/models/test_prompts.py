"""Prompt tokens: which are made, and what they depend on."""

import pytest
import torch

from emo_ray.config.model_settings import EmoVCLIP
from emo_ray.models.prompts import ClassContext, FramePrompts


def prompts_of(**changes):
    torch.manual_seed(0)
    return FramePrompts(EmoVCLIP(**changes), frames=4, width=8, heads=2, patch_area=256)


@pytest.mark.parametrize("global_prompts", [0, 3])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("summary", [False, True])
def test_tokens_broadcast_to_every_frame(global_prompts, local, summary):
    tokens = prompts_of(global_prompts=global_prompts, local_prompts=local, summary_prompt=summary)(
        torch.randn(2, 4, 8)
    )
    sizes = [tuple(t.expand(2, 4, -1, -1).shape) for t in tokens]
    expected = [n for n, on in [(global_prompts, global_prompts), (4, local), (1, summary)] if on]
    assert sizes == [(2, 4, n, 8) for n in expected]


def test_an_unused_projection_is_not_made():
    assert prompts_of(local_prompts=False, summary_prompt=False).cls_proj is None


def test_initial_values():
    prompts = prompts_of()
    bound = (6 / (3 * 256 + 8)) ** 0.5
    assert prompts.global_GD.abs().max() <= bound
    assert prompts.local_TD.abs().max() <= bound
    x = torch.randn(5, 8)
    torch.testing.assert_close(prompts.cls_proj(x), x)


def test_summary_sees_all_frames_of_its_clip_only():
    prompts = prompts_of(global_prompts=0, local_prompts=False)
    cls = torch.randn(2, 4, 8)
    before = prompts(cls)[0]
    cls[0, 3] = torch.randn(8)
    after = prompts(cls)[0]
    assert not torch.isclose(before[0, 0], after[0, 0]).all()
    torch.testing.assert_close(before[1], after[1])


@pytest.mark.parametrize(("specific", "rows"), [(True, 3), (False, 1)])
def test_context_is_shared_or_per_class(specific, rows):
    context = ClassContext(EmoVCLIP(context_tokens=2, class_specific_context=specific), classes=3, width=4)
    embedded = torch.randn(3, 6, 4)
    replaced = context(embedded)
    assert len(context.context_KND) == rows
    assert torch.equal(replaced[:, :1], embedded[:, :1])
    assert torch.equal(replaced[:, 3:], embedded[:, 3:])
    assert (replaced[0, 1:3].equal(replaced[1, 1:3])) != specific
