"""Low-rank updates: cheap in training, and in prediction a part of the weights."""

from functools import partial

import pytest
import torch
from tiny_clips import LABELS, UNPROMPTED, frames_of

from emo_ray.models import emovclip, reference
from emo_ray.models.trainable_state import cast_frozen, load_trained, trained_state
from emo_ray.training.optimizer import optimizer_of

LORA = {"emovclip.lora.rank": 3, "emovclip.lora.dropout": 0.0}
BOTH_TOWERS = LORA | {"emovclip.lora.towers": ["vision", "text"]}


def build(config, frozen_too=True):
    """A model in which everything trained differs from where it starts; biases and norms of the CLIP too."""
    model = emovclip.build(config, LABELS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_frozen_vector = frozen_too and name.startswith("clip.visual") and parameter.ndim == 1
            if is_frozen_vector or (parameter.requires_grad and name != "logit_scale"):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.add_(0.1 * noise)
    return model


def gradients(model, encode, frames):
    """Video features and their gradients by the parameters they depend on."""
    trained = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith(("context", "logit_scale", "lora.text"))
    }
    features_BD = encode(frames)
    weight_BD = torch.randn(features_BD.shape, generator=torch.Generator().manual_seed(0))
    values = torch.autograd.grad((features_BD * weight_BD).sum(), list(trained.values()), allow_unused=True)
    return features_BD, dict(zip(trained, values, strict=True))


@pytest.mark.parametrize("prompts", [{}, UNPROMPTED], ids=["prompts", "none"])
@pytest.mark.parametrize(
    "changes",
    [
        *({"emovclip.lora.targets": [target]} for target in ("q", "k", "v", "out", "fc1", "fc2")),
        {},
        {"emovclip.lora.blocks": 1},
        {"emovclip.unfreeze_blocks": 1},
        {"emovclip.unfreeze_blocks": 2, "emovclip.lora.rank": 0},
    ],
    ids=str,
)
def test_it_equals_updated_weights_and_so_do_gradients(tiny, prompts, changes):
    model, frames = build(tiny(prompts | LORA | changes)), frames_of(3)
    (ours, our_gradients), (plain, plain_gradients) = (
        gradients(model, encode, frames) for encode in (model.encode_video, partial(reference.encode_video, model))
    )
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    assert our_gradients
    for name, expected in plain_gradients.items():
        if name.endswith("in_proj_bias"):  # a bias of keys changes nothing
            expected[32:64] = 0
        assert (our_gradients[name] - expected).norm() <= 1e-4 * expected.norm() + 1e-6, name


def test_updates_of_the_text_tower_are_updated_weights_too(tiny):
    model = build(tiny(BOTH_TOWERS))
    classes_KD = model.encode_classes()
    frozen = build(tiny(LORA)).encode_classes()
    assert not torch.allclose(classes_KD, frozen, atol=1e-3)
    model.merge()
    torch.testing.assert_close(model.encode_classes(), classes_KD, atol=1e-5, rtol=1e-5)


def test_merged_updates_give_the_same_outputs(tiny):
    model, frames = build(tiny(BOTH_TOWERS | {"emovclip.lora.dropout": 0.5})), frames_of(3)
    before = model(frames)
    assert not torch.allclose(before.features_BD, build(tiny()).encode_video(frames), atol=1e-3)
    model.merge()
    assert not any(name.startswith("lora") for name, _ in model.named_parameters())
    torch.testing.assert_close(model(frames), before, atol=1e-5, rtol=1e-5)


def test_updates_start_at_nothing_and_leave_all_else_as_it_was_drawn(tiny):
    plain, updated = (emovclip.build(tiny(changes), LABELS).eval() for changes in ({}, BOTH_TOWERS))
    frames, state = frames_of(2), updated.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    torch.testing.assert_close(updated(frames).logits_BK, plain(frames).logits_BK, atol=1e-4, rtol=1e-5)


def test_dropout_is_drawn_in_training_alone(tiny):
    model, frames = build(tiny(LORA | {"emovclip.lora.dropout": 0.5})), frames_of(1)
    assert torch.equal(model.encode_video(frames), model.encode_video(frames))
    model.train()
    assert not torch.allclose(model.encode_video(frames), model.encode_video(frames), atol=1e-3)


def test_a_checkpoint_holds_what_is_trained_and_no_more(tiny):
    config = tiny(BOTH_TOWERS | {"emovclip.unfreeze_blocks": 1})
    model, frames = build(config, frozen_too=False), frames_of(2)
    state = trained_state(model)
    assert {n for n in state if n.startswith("clip.")} == {
        n for n, _ in model.named_parameters() if n.startswith("clip.visual.transformer.resblocks.1.")
    }
    assert any(name.startswith("lora.text.") for name in state)
    fresh = emovclip.build(config, LABELS).eval()
    load_trained(fresh, state)
    torch.testing.assert_close(fresh(frames), model(frames))
    with pytest.raises(ValueError, match="do not fit"):
        load_trained(emovclip.build(tiny(), LABELS), state)


def test_weights_that_are_trained_keep_their_precision(tiny):
    model = emovclip.build(tiny({"emovclip.unfreeze_blocks": 1}), LABELS)
    cast_frozen(model, torch.bfloat16)
    first, last = model.clip.visual.transformer.resblocks
    assert first.mlp.c_fc.weight.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in last.parameters())


def test_frozen_weights_get_no_gradient_and_all_others_do(tiny):
    model = build(tiny(BOTH_TOWERS | {"emovclip.unfreeze_blocks": 1})).train()
    model(frames_of(2)).logits_BK.square().sum().backward()
    for name, parameter in model.named_parameters():
        is_trained = not name.startswith("clip.") or name.startswith("clip.visual.transformer.resblocks.1.")
        assert (parameter.grad is not None) == parameter.requires_grad == is_trained, name


def test_parts_have_learning_rates_of_their_own(tiny):
    rates = {"prompts": 1e-2, "lora": 1e-3, "blocks": 1e-5, "pooling": 1e-4, "contexts": 3e-3}
    settings = LORA | {"emovclip.unfreeze_blocks": 1, "emovclip.pooling": "attention", "emovclip.lr_of": rates}
    config = tiny(settings)
    model = emovclip.build(config, LABELS)
    optimizer = optimizer_of(model, config.emovclip, torch.device("cpu"))
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    rate_of = {
        (name_of[p].split(".")[0], group["highest_lr"]) for group in optimizer.param_groups for p in group["params"]
    }
    expected = {"time_TD": 1e-2, "prompts": 1e-2, "lora": 1e-3, "clip": 1e-5, "pooling": 1e-4, "context": 3e-3}
    assert rate_of == {*expected.items(), ("logit_scale", config.emovclip.lr)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(p.requires_grad for p in name_of)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emovclip.lora.rank": 2, "emovclip.lora.blocks": 3}, r"lora\.blocks.*3"),
        ({"emovclip.unfreeze_blocks": 3}, r"unfreeze_blocks.*3"),
        ({"emovclip.lr_of": {"lora": 1e-4}}, r"lr_of.*lora"),
        ({"emovclip.lr_of": {"everything": 1e-4}}, r"lr_of.*everything"),
        ({"emovclip.lr_of": {"prompts": 0.0}}, r"lr_of.*prompts: 0"),
    ],
)
def test_settings_of_what_is_not_there_are_named(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        emovclip.build(tiny(changes), LABELS)
