"""EmoVCLIP against open_clip: without prompts it is CLIP's mean over frames, with prompts a longer sequence."""

from functools import partial

import open_clip
import pytest
import torch
from devices import DEVICES
from tiny_clips import LABELS, OFF, frames_of

from emo_ray.models import emovclip, reference
from emo_ray.models.clip import load_clip
from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.trainable_state import cast_frozen


def build(config):
    """A model whose prompts are large enough to matter in a comparison."""
    model = emovclip.build(config, LABELS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name != "logit_scale":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def images_of(model, frames_BTCHW):
    return (frames_BTCHW.flatten(0, 1) / 255 - model.mean) / model.std


def test_without_prompts_it_is_open_clips_mean_over_frames(tiny):
    model, frames = build(tiny(OFF)), frames_of(3, 4)
    reference = model.clip.encode_image(images_of(model, frames)).view(3, 4, -1).mean(dim=1)
    torch.testing.assert_close(model(frames).features_BD, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize("custom_text", [False, True])
def test_without_context_classes_are_open_clips_text_embeddings(tiny, custom_text):
    model = build(tiny(OFF, custom_text=custom_text))
    tokens = open_clip.SimpleTokenizer()(["neutral", "very happy", "sad"], context_length=24)
    torch.testing.assert_close(model.encode_classes(), model.clip.encode_text(tokens), atol=1e-5, rtol=0)


def test_context_replaces_the_embeddings_behind_the_start_token(tiny):
    model = build(tiny({"emovclip.context_tokens": 3}))
    text, ids = model.clip, open_clip.SimpleTokenizer()(["X X X neutral", "X X X very happy", "X X X sad"], 24)
    embedded = text.token_embedding(ids)
    embedded[:, 1:4] = model.context.context_KND
    x = text.transformer(embedded + text.positional_embedding, attn_mask=text.attn_mask)
    reference = text.ln_final(x)[range(3), ids.argmax(dim=-1)] @ text.text_projection
    torch.testing.assert_close(model.encode_classes(), reference, atol=1e-5, rtol=0)


KINDS = ("emovclip.local_prompts", "emovclip.summary_prompt", "emovclip.time_embedding")


def trained_of(model):
    """The trained parameters that video features depend on."""
    return [p for n, p in model.named_parameters() if p.requires_grad and n.startswith(("prompts", "time", "pooling"))]


def with_biases(model):
    """The model with random biases and norms: at 0 and 1, where they start, errors in their use would not show."""
    with torch.no_grad():
        for i, parameter in enumerate(p for p in model.clip.visual.parameters() if p.ndim == 1):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return model


FRAMES, GLOBAL_PROMPTS = (1, 4, 8, 16), (0, 1, 8, 16)


@pytest.mark.parametrize("kinds", range(8), ids=lambda bits: f"{bits:03b}")
@pytest.mark.parametrize(("place", "frames"), list(enumerate(FRAMES)))
def test_it_equals_the_plain_formulation_and_so_do_its_gradients(tiny, kinds, place, frames):
    """Every two of kinds of prompts, frames and global prompts meet: a Latin square of each is in these cases."""
    global_prompts = GLOBAL_PROMPTS[(place + kinds + kinds // 4) % 4]
    on = {name: bool(kinds >> i & 1) for i, name in enumerate(KINDS)}
    model = with_biases(build(tiny({**on, "emovclip.global_prompts": global_prompts}, frames)))
    trained = trained_of(model)
    for clips in (1, 3):
        images, results = frames_of(clips, frames), []
        for encode in (model.encode_video, partial(reference.encode_video, model)):
            features_BD = encode(images)
            weight_BD = torch.randn(features_BD.shape, generator=torch.Generator().manual_seed(0))
            results.append(
                (features_BD, torch.autograd.grad((features_BD * weight_BD).sum(), trained) if trained else ())
            )
        (ours, our_gradients), (plain, plain_gradients) = results
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
        for gradient, expected in zip(our_gradients, plain_gradients, strict=True):
            assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-7


def test_the_plain_formulation_is_open_clips_own_blocks_over_more_rows(tiny):
    model, images = with_biases(build(tiny())), frames_of(2, 4)
    block = model.clip.visual.transformer.resblocks[0]
    rows = torch.randn(2, 9, 32)
    torch.testing.assert_close(reference._attention(block.attn, rows), block.attn(rows, rows, rows)[0])
    without = with_biases(build(tiny(OFF)))
    expected = without.clip.encode_image(images_of(without, images)).view(2, 4, -1).mean(dim=1)
    torch.testing.assert_close(reference.encode_video(without, images), expected, atol=1e-5, rtol=0)


def test_only_what_is_trained_gets_a_gradient_and_only_what_leads_to_it_a_graph(tiny):
    model = build(tiny(OFF | {"emovclip.context_tokens": 2}))
    assert not model.encode_video(frames_of(1, 4)).requires_grad
    assert model.encode_classes().requires_grad
    assert not build(tiny({"emovclip.context_tokens": 0})).encode_classes().requires_grad


@pytest.mark.parametrize("architecture", [{"quick_gelu": True}, {"custom_text": True}])
def test_other_open_clip_architectures(tiny, architecture):
    other = {"name": "other-vit", "vision_cfg": {"ls_init_value": 0.5}, **architecture}
    model, without, images = build(tiny(**other)), build(tiny(OFF, **other)), frames_of(1, 4)
    torch.testing.assert_close(model.encode_video(images), reference.encode_video(model, images), atol=1e-5, rtol=0)
    expected = without.clip.encode_image(images_of(without, images)).view(1, 4, -1).mean(dim=1)
    torch.testing.assert_close(without.encode_video(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", [{}, {"emovclip.lora.rank": 2, "emovclip.lora.dropout": 0.0}], ids=["", "LoRA"])
def test_every_device_and_bf16_give_about_the_features_and_gradients_of_fp32_on_the_cpu(tiny, changes, device):
    """The plain formulation is the reference. GPUs run norms and attention by other operators."""
    model, frames = with_biases(build(tiny(changes, quick_gelu=True, name="other-vit"))), frames_of(3, 4)
    trained = trained_of(model)
    expected = reference.encode_video(model, frames)
    expected_gradients = torch.autograd.grad(expected.square().sum(), trained)
    model, frames = model.to(device), frames.to(device)
    for bf16, tolerance in ((False, 1e-4), (True, 0.3)):  # deviations add up in the prompts of a tiny model
        if bf16:
            cast_frozen(model, torch.bfloat16)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            features_BD = model.encode_video(frames)
        gradients = torch.autograd.grad(features_BD.float().square().sum(), trained_of(model))
        pairs = zip((features_BD, *gradients), (expected, *expected_gradients), strict=True)
        for actual, value in ((actual.float().cpu(), value) for actual, value in pairs):
            assert (actual - value).norm() <= tolerance * value.norm() + 1e-6


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_exactly_what_is_new_is_trained(tiny, pooling):
    model = build(tiny({"emovclip.pooling": pooling}))
    model(frames_of(2, 4)).logits_BK.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("clip.")), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.train()
    assert not model.clip.training


def test_cls_proj_can_be_frozen(tiny):
    model = build(tiny({"emovclip.train_cls_proj": False}))
    assert not any(p.requires_grad for n, p in model.named_parameters() if "cls_proj" in n)


def test_logits_stay_exact_under_bf16_autocast(tiny):
    model, images = build(tiny()), frames_of(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).logits_BK.dtype == torch.float32


def test_order_of_frames_matters_only_with_prompts_or_attention(tiny):
    images = frames_of(2, 4)
    flipped = images.flip(1)
    for changes, ordered in [(OFF, False), ({}, True), (OFF | {"emovclip.pooling": "attention"}, True)]:
        model = build(tiny(changes))
        same = torch.allclose(model.encode_video(images), model.encode_video(flipped), atol=1e-5)
        assert same != ordered


def test_clips_of_a_batch_do_not_see_each_other(tiny):
    model, images = build(tiny()), frames_of(4, 4)
    alone = torch.cat([model.encode_video(clip[None]) for clip in images])
    torch.testing.assert_close(model.encode_video(images), alone, atol=1e-5, rtol=0)


def test_logits_are_scaled_cosines(tiny):
    model, images = build(tiny()), frames_of(2, 4)
    output = model(images)
    cosines = torch.cosine_similarity(output.features_BD[:, None], model.encode_classes()[None], dim=-1)
    torch.testing.assert_close(output.logits_BK, cosines * model.logit_scale.exp(), atol=1e-4, rtol=1e-4)


def test_the_seed_decides_everything(tiny):
    states = [emovclip.build(tiny({"seed": seed}), LABELS).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_attention_over_frames_starts_as_the_mean_of_their_directions(tiny):
    model, frames = emovclip.build(tiny(OFF | {"emovclip.pooling": "attention"}), LABELS).eval(), frames_of(3, 4)
    reference = model.clip.encode_image(images_of(model, frames), normalize=True).view(3, 4, -1).mean(dim=1)
    torch.testing.assert_close(model(frames).features_BD, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emovclip.clip": "ViT-nope"}, "ViT-nope"),
        ({"emovclip.clip": "nope.json"}, "nope.json"),
        ({"emovclip.weights": "laion-nope"}, "laion-nope"),
        ({"emovclip.context_tokens": 30}, "context_tokens"),
        ({"media.image_size": 40}, "image_size"),
    ],
)
def test_unusable_settings_are_named(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        emovclip.build(tiny(changes), LABELS)


def test_other_towers_are_refused(tiny):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    with pytest.raises(ValueError, match="ResNet"):
        emovclip.build(tiny(name="resnet", vision_cfg=vision), LABELS)


def test_other_frames_are_refused(tiny):
    model = EmoVCLIP(tiny(), load_clip(tiny()))
    for frames in (frames_of(1, 3), frames_of(1, 4, size=48)):
        with pytest.raises(ValueError, match=r"media\.frames"):
            model(frames)
