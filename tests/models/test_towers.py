"""Towers of other families: each is the library's own without prompts, and the plain formulation with them."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_clips import LABELS, OFF, frames_of
from tiny_towers import TEXTS, TOWERS, write_tokenizer

from emo_ray.models import emovclip, reference
from emo_ray.models.clip import tokenizer
from emo_ray.models.emovclip import VideoEncoder
from emo_ray.models.identity import frozen_digest
from emo_ray.models.tower import attention
from emo_ray.models.trainable_state import cast_frozen

UPDATED = {"emovclip.lora.rank": 2, "emovclip.lora.dropout": 0.0, "emovclip.lora.towers": ["vision", "text"]}


@pytest.fixture
def built(tiny, tmp_path):
    """Build a model on a tiny CLIP of these families, in which no parameter is as it started."""

    def build(tower="open_clip, CLS", text="CLIP", labels=LABELS, **changes):
        name = "tiny-other"
        if TEXTS[text].get("hf_tokenizer_name"):
            write_tokenizer(tmp_path / f"{name}.tokenizer", text)
        size = {"embed_dim": 32} if tower == "SigLIP" else {}  # its pool projects to the tower's width
        config = tiny(changes, name=name, vision_cfg=TOWERS[tower], text_cfg=TEXTS[text], custom_text=True, **size)
        model = emovclip.build(config, labels).eval()
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                if parameter.ndim:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        return model, config

    return build


@pytest.mark.parametrize("tower", TOWERS)
def test_without_prompts_it_is_the_librarys_own_mean_over_frames(built, tower):
    model, frames = built(tower, **OFF)[0], frames_of(3)
    images = (frames.flatten(0, 1) / 255 - model.mean) / model.std
    expected = model.clip.encode_image(images).view(3, 4, -1).mean(dim=1)
    torch.testing.assert_close(model(frames).features_BD, expected, atol=1e-5, rtol=0)
    assert VideoEncoder(model).dim == expected.shape[1]


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("changes", [{}, UPDATED, OFF | UPDATED], ids=["prompts", "both", "updates"])
def test_it_equals_the_plain_formulation_and_so_do_its_gradients(built, tower, changes):
    model, frames = built(tower, **changes)[0], frames_of(2)
    parts = ("prompts", "time", "lora.vision")
    trained = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith(parts)]
    results = []
    for encode in (model.encode_video, partial(reference.encode_video, model)):
        features_BD = encode(frames)
        weight_BD = torch.randn(features_BD.shape, generator=torch.Generator().manual_seed(0))
        results.append((features_BD, torch.autograd.grad((features_BD * weight_BD).sum(), trained)))
    (ours, our_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    for gradient, expected in zip(our_gradients, plain_gradients, strict=True):
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-5
    if "emovclip.lora.rank" in changes:
        model.merge()
        torch.testing.assert_close(model.encode_video(frames), ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tower", [name for name in TOWERS if not name.startswith("open_clip")])
def test_prompts_are_rows_of_timms_own_blocks_that_no_position_rotates(built, tower):
    model = built(tower)[0]
    block, rows = model.tower.blocks[0], model.tower.embed(torch.randn(2, 3, 32, 32))
    prompts = torch.randn(2, 3, 32)
    arguments = {}
    if block.rotation is not None:
        sine, cosine = block.rotation().chunk(2, dim=-1)
        still = sine.new_zeros(3, sine.shape[1])
        arguments["rope"] = torch.cat([torch.cat([sine, still]), torch.cat([cosine, still + 1])], dim=-1)
    expected = block.module(torch.cat([rows, prompts], dim=1), **arguments)
    torch.testing.assert_close(reference.plain_block(block, torch.cat([rows, prompts], dim=1)), expected)
    ours = emovclip.prompted_block(block, rows[None], [prompts[None]])[0]
    torch.testing.assert_close(ours, expected[:, : rows.shape[1]])


@pytest.mark.parametrize("text", TEXTS)
def test_without_contexts_classes_are_the_librarys_own_text_embeddings(built, text):
    model, config = built(text=text, **OFF | UPDATED)
    updated = model.encode_classes()
    model.merge()
    tokens = tokenizer(config)(["neutral", "very happy", "sad"], context_length=24)
    expected = model.clip.encode_text(tokens)
    torch.testing.assert_close(model.encode_classes(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(updated, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_contexts_stand_in_the_places_of_words_before_the_class_name(built, text):
    model, config = built(text=text, **OFF | {"emovclip.context_tokens": 2})
    tokens = tokenizer(config)(["a face neutral", "a face very happy", "a face sad"], context_length=24)
    start = int(text != "SigLIP 2")
    with torch.no_grad():
        model.context.context_KND.copy_(model.text.embed(tokens[:, start : start + 2]))
    torch.testing.assert_close(model.encode_classes(), model.clip.encode_text(tokens), atol=1e-5, rtol=0)


def test_class_names_are_in_any_language_that_the_tokenizer_knows(built):
    for text in ("SigLIP 2", "MetaCLIP 2"):
        embedding_KD = built(text=text, labels=("happy", "开心", "glücklich"))[0].encode_classes()
        assert embedding_KD.isfinite().all()
        with pytest.raises(ValueError, match="счастье"):
            built(text=text, labels=("happy", "счастье"))


def test_names_and_contexts_that_do_not_fit_are_refused(built):
    for text in TEXTS:
        with pytest.raises(ValueError, match=r"context_tokens"):
            built(text=text, **{"emovclip.context_tokens": 22})


def test_a_tokenizer_beside_an_architecture_is_in_the_digest(built, tmp_path):
    config = built(text="MetaCLIP 2")[1]
    before = frozen_digest(config)
    (tmp_path / "tiny-other.tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "other"}')
    assert frozen_digest(config) != before


@pytest.mark.parametrize("tower", ["SigLIP", "EVA-02"])
def test_all_is_trained_in_other_families_too(built, tower):
    model = built(tower, **UPDATED | {"emovclip.unfreeze_blocks": 1})[0].train()
    model(frames_of(2)).logits_BK.square().sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("tower", TOWERS)
def test_a_copy_in_bf16_is_close_and_shares_nothing(built, tower):
    model, frames = built(tower, **UPDATED)[0], frames_of(2)
    expected = model(frames).features_BD
    copy = deepcopy(model)
    cast_frozen(copy, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        features_BD = copy(frames).features_BD
    assert (features_BD.float() - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(model(frames).features_BD, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_spelt_out_in_bf16_is_the_fused_one(masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, rows, 8, generator=generator).bfloat16() for rows in (5, 7, 7))
    mask_QN = torch.full((5, 7), float("-inf")).triu_(1) if masked else None
    exact = [t.double() for t in (query, key, value)]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=None if mask_QN is None else mask_QN.double())
    mixed = attention(query, key, value, mask_QN)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("text", ["CLIP", "SigLIP 2"])
def test_classes_in_bf16_are_close_to_those_in_fp32(built, text):
    model = built(text=text)[0]
    expected = model.encode_classes()
    cast_frozen(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        embedding_KD = model.encode_classes()
    assert (embedding_KD.float() - expected).norm() < 0.05 * expected.norm()
