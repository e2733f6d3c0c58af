"""The trained part of a state, and the dtype of the frozen part."""

import torch

from emo_ray.models.emovclip import build
from emo_ray.models.trainable_state import cast_frozen, trained_state


def test_casting_the_frozen_part_changes_nothing_that_autocast_gives(tiny):
    config = tiny({"emovclip.pooling": "attention"})
    frames = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs, gradients = [], []
    for cast in (False, True):
        model = build(config, config.data.labels).train()
        before = trained_state(model)
        if cast:
            cast_frozen(model, torch.bfloat16)
            block = model.clip.visual.transformer.resblocks[0]
            assert block.attn.in_proj_weight.dtype == block.mlp.c_fc.weight.dtype == torch.bfloat16
            assert block.ln_1.weight.dtype == model.clip.token_embedding.weight.dtype == torch.float32
            after = trained_state(model)
            assert all(after[name].dtype == value.dtype for name, value in before.items())
        with torch.autocast("cpu", torch.bfloat16):
            output = model(frames)
        outputs.append(output.logits_BK)
        output.logits_BK.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert torch.equal(*outputs)
    for name, value in gradients[0].items():
        assert torch.equal(value, gradients[1][name]), name
