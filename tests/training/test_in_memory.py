"""Training in memory leaves the model with the weights of the epoch that it names."""

from dataclasses import replace

import pytest
import torch

from emo_ray.config import load
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.fusion import FusionHead, scalings
from emo_ray.training import in_memory
from emo_ray.training.loop import predict
from emo_ray.training.metrics import metrics

CONFIG = load("mini", {"train.epochs": 4, "fusion.hidden": 8, "fusion.lr": 1e-2})


def batch(clips=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(clips) % 3
    features = {"audio": torch.eye(3)[label] + torch.randn(clips, 3, generator=generator)}
    present = torch.tensor([[False, True, False]] * clips)
    return FeatureBatch(clip_ids=tuple(map(str, range(clips))), present_BM=present, label_B=label, features=features)


def fresh(train):
    torch.manual_seed(0)
    return FusionHead(CONFIG.fusion, scalings(train), 3)


def test_the_model_is_left_at_the_best_epoch_or_at_the_last_without_validation():
    train, validation = batch(), batch(seed=1)
    head = fresh(train)
    best = in_memory.fit(head, train, validation, CONFIG.fusion, CONFIG, 3)
    assert metrics(*predict(head, [validation]))["waf"] == pytest.approx(best["score"][0])
    assert in_memory.fit(fresh(train), train, None, CONFIG.fusion, CONFIG, 3)["epoch"] == CONFIG.train.epochs - 1


def test_the_seed_alone_decides_a_head():
    train = batch()
    state, same, other = (
        in_memory.fit_head(train, None, config, 3).state_dict()
        for config in (CONFIG, CONFIG, CONFIG.model_copy(update={"seed": 5}))
    )
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not torch.equal(state["classify.weight"], other["classify.weight"])


def test_chunks_are_the_batch_in_order():
    whole = batch(150)
    parts = in_memory.chunks(whole)
    assert [i for part in parts for i in part.clip_ids] == list(whole.clip_ids)
    assert in_memory.chunks(None) == []
    assert len(in_memory.chunks(replace(whole).rows(torch.arange(3)))) == 1


def test_an_epoch_is_every_clip_as_often_as_it_has_passes_each_time_in_another_order():
    whole = batch(50)
    epochs = [list(in_memory.shuffled(whole, 16, seed=1, epoch=epoch, passes=2)) for epoch in (0, 0, 1)]
    ids = [[i for part in parts for i in part.clip_ids] for parts in epochs]
    assert [len(part) for part in epochs[0]] == [16, 16, 16, 2] * 2
    assert sorted(ids[0][:50]) == sorted(ids[0][50:]) == sorted(whole.clip_ids)
    assert ids[0] == ids[1]
    assert len({tuple(order) for order in (ids[0][:50], ids[0][50:], ids[2][:50], ids[2][50:])}) == 4
