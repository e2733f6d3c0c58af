"""An average of heads says what its heads say together, and trains each as it would be trained alone."""

import pytest
import torch

from emo_ray.config import load, override
from emo_ray.data.batch import FeatureBatch
from emo_ray.models import checkpoint
from emo_ray.models.fusion import FusionHead, scalings
from emo_ray.models.head_average import HeadAverage, together
from emo_ray.models.trainable_state import trained_state
from emo_ray.training.in_memory import fit
from emo_ray.training.selection import fit_average

CONFIG = load("mini", {"train.epochs": 2, "fusion.hidden": 6, "fusion.batch_size": 8, "train.heads": 3})


def clips(count=30):
    generator = torch.Generator().manual_seed(count)
    label = torch.randint(0, 3, (count,), generator=generator)
    features = {name: torch.randn(count, 4, generator=generator) + torch.eye(3, 4)[label] for name in ("video", "text")}
    present = torch.tensor([True, False, True]).expand(count, -1)
    return FeatureBatch(clip_ids=tuple(map(str, range(count))), present_BM=present, label_B=label, features=features)


def heads(count):
    torch.manual_seed(0)
    return [FusionHead(CONFIG.fusion, scalings(clips()), 3) for _ in range(count)]


def test_the_answer_is_the_mean_of_the_probabilities():
    each, batch = heads(3), clips()
    average = together(each).eval()
    expected = torch.stack([head.eval()(batch).logits_BK.softmax(-1) for head in each]).mean(dim=0)
    torch.testing.assert_close(average(batch).probabilities_BK(batch.clip_ids), expected)
    assert together(each[:1]) is each[0]


def test_a_head_learns_in_company_what_it_learns_alone():
    """With neither dropout nor modality dropout, whose noise the heads draw one after the other."""
    config = override(CONFIG, {"fusion.dropout": 0.0, "fusion.modality_dropout": 0.0, "fusion.grad_clip_norm": 0.01})

    def trained(models):
        model = together([FusionHead(config.fusion, scalings(clips()), 3) for _ in models])
        for head, state in zip(model.heads if len(models) > 1 else [model], models, strict=True):
            head.load_state_dict(state.state_dict())
        fit(model, clips(), None, config.fusion, config, 3)
        return [trained_state(head) for head in (model.heads if len(models) > 1 else [model])]

    start = heads(2)
    in_company, alone = trained(start), [trained([head])[0] for head in start]
    for state, expected in zip(in_company, alone, strict=True):
        assert state.keys() == expected.keys()
        for name in state:
            torch.testing.assert_close(state[name], expected[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(in_company[0]["absent_MH"], in_company[1]["absent_MH"])


def test_the_loss_that_is_logged_is_that_of_a_head():
    best = [fit(together(heads(count)), clips(), clips(20), CONFIG.fusion, CONFIG, 3)["metrics"] for count in (1, 4)]
    assert best[1]["train_loss"] == pytest.approx(best[0]["train_loss"], rel=0.15)
    assert best[0]["val_loss"] > 0


def test_a_checkpoint_gives_the_same_average(tmp_path):
    head = fit_average(clips(), CONFIG, "abc")
    assert isinstance(head, HeadAverage)
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint.write(folder, trained_state(head), CONFIG, list("abc"), "card")
    again = checkpoint.load_fusion(folder)
    assert torch.equal(again(clips()).logits_BK, head(clips()).logits_BK)
    warm = override(CONFIG, {"fusion.start_from": str(folder)})
    for count in (1, 2, 5):
        start = checkpoint.fresh_fusion(warm, scalings(clips()), list("abc"), count)
        parts = start.heads if count > 1 else [start]
        assert len(parts) == count
        for i, part in enumerate(parts):
            torch.testing.assert_close(part.state_dict(), head.heads[i % 3].state_dict())


def test_small_corpora_get_three_heads_unless_told_otherwise():
    settings = load("mini").train
    assert settings.averaged_heads(4999) == 3
    assert settings.averaged_heads(5000) == 1
    assert override(load("mini"), {"train.heads": 2}).train.averaged_heads(10**6) == 2
