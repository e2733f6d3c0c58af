"""Stacked heads give what each of them gives alone."""

from dataclasses import replace

import pytest
import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch, unlabelled
from emo_ray.models.fusion import FusionHead
from emo_ray.training.stacked_forward import classify, fuse_subsets, project, stack, transposed_weight

SIZES = {"video": 5, "audio": 3, "text": 4}
ROWS, HIDDEN = 64, 16


def heads_of(count, names=MODALITIES, **changes):
    """Heads with random parameters, in float64, where rounding explains no difference."""
    torch.manual_seed(0)
    statistics = {n: torch.stack([torch.zeros(SIZES[n]), torch.ones(SIZES[n])]) for n in names}
    heads = [FusionHead(Fusion(hidden=HIDDEN, **changes), statistics, classes=4).double() for _ in range(count)]
    with torch.no_grad():
        for head in heads:
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return heads


def clips():
    generator = torch.Generator().manual_seed(0)
    features = {n: torch.randn(ROWS, size, generator=generator, dtype=torch.float64) for n, size in SIZES.items()}
    present = torch.rand(ROWS, 3, generator=generator) < 0.6
    return FeatureBatch(
        clip_ids=tuple(map(str, range(ROWS))), present_BM=present, label_B=unlabelled(ROWS), features=features
    )


def projected(heads, batch):
    """The projections of the modalities that the heads know."""
    tensors, rows = stack(heads), []
    for m, name in enumerate(MODALITIES):
        known = name in heads[0].project
        scaled = heads[0].standardise(batch.features[name], name, batch.present_BM[:, m]) if known else None
        rows.append(project(tensors, name, scaled) if known else None)
    return tensors, rows


def assert_same(actual, expected):
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("lacking", [None, "audio"])
def test_many_heads_at_once_are_each_of_them(lacking):
    batch, heads = clips(), heads_of(2, [n for n in MODALITIES if n != lacking])
    expected = [head.eval()(batch) for head in heads]
    (fused,) = fuse_subsets(*projected(heads, batch), batch.present_BM, [MODALITIES])
    assert_same(classify(stack(heads), fused), [output.logits_BK for output in expected])
    assert_same(fused, [output.features_BD for output in expected])


@pytest.mark.parametrize("lacking", [None, "audio"])
def test_subsets_at_once_are_what_each_head_says_of_each_alone(lacking):
    """This also holds for clips that lack modalities and for heads that know only two."""
    batch, heads = clips(), [head.eval() for head in heads_of(2, [n for n in MODALITIES if n != lacking])]
    at_once = fuse_subsets(*projected(heads, batch), batch.present_BM, list(SUBSETS.values()))
    for names, actual in zip(SUBSETS.values(), at_once, strict=True):
        shown = replace(batch, present_BM=batch.present_BM & torch.tensor([name in names for name in MODALITIES]))
        assert_same(classify(stack(heads), actual), [head(shown).logits_BK for head in heads])


def test_stacked_parameters_come_back_as_they_were():
    heads = heads_of(2)
    for name, tensor in stack(heads).items():
        for head, row in zip(heads, tensor, strict=True):
            assert torch.equal(transposed_weight(name, row), head.get_parameter(name))
