"""The training loop: it learns, it resumes exactly, it keeps the best epoch."""

import shutil

import pytest
import torch

from emo_ray.data.batch import Batch
from emo_ray.models.fusion import FusionHead
from emo_ray.models.state import trained_state
from emo_ray.settings import MODALITIES, Fusion
from emo_ray.training.loop import PlainReporter, Plan, fit, learning_rate_factor, load_state, predict

OWN = Fusion(hidden=16, lr=3e-3, batch_size=16)
CENTRES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def make_batch(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (rows,), generator=generator)
    features = {m: CENTRES[label] + torch.randn(rows, 6, generator=generator) for m in MODALITIES}
    return Batch(tuple(map(str, range(rows))), torch.ones(rows, 3, dtype=torch.bool), features=features, label_B=label)


def model():
    torch.manual_seed(0)
    return FusionHead(OWN, {m: torch.stack([torch.zeros(6), torch.ones(6)]) for m in MODALITIES}, 3)


def train(epoch):
    return [make_batch(16, 100 * epoch + i) for i in range(6)]


def validation(epoch):
    return [make_batch(40, 9_999)]


def plan(epochs):
    return Plan(OWN, epochs=epochs, steps_per_epoch=6, seed=3)


class Keeping(PlainReporter):
    """Keeps every epoch's state in a folder, can start from one, and can die after an epoch."""

    def __init__(self, folder, restored=None, dies_after=None):
        super().__init__()
        self.folder, self.restored, self.dies_after = folder, restored, dies_after

    def restore(self):
        return self.restored

    def report(self, metrics, state):
        super().report(metrics, state)
        shutil.copytree(state, self.folder / str(metrics["epoch"]))
        if metrics["epoch"] == self.dies_after:
            raise KeyboardInterrupt


def test_it_learns():
    reporter = PlainReporter()
    best = fit(model(), train, validation, plan(12), reporter)
    assert best["metrics"]["val_waf"] > 0.9
    assert reporter.history[-1]["train_loss"] < reporter.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    weights = []
    for seed in (3, 3, 4):
        trained = fit(model(), train, validation, Plan(OWN, 3, 6, seed), PlainReporter())["model"]
        weights.append(trained["classify.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("last_seen", [0, 2])
def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path, last_seen):
    undisturbed, whole = PlainReporter(), model()
    best = fit(whole, train, validation, plan(5), undisturbed)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), train, validation, plan(5), Keeping(tmp_path, dies_after=last_seen))
    resumed, again = PlainReporter(), model()
    resumed.restore = lambda: tmp_path / str(last_seen)
    assert fit(again, train, validation, plan(5), resumed)["epoch"] == best["epoch"]
    assert resumed.history == undisturbed.history[last_seen + 1 :]
    for name, value in trained_state(whole).items():
        assert torch.equal(value, trained_state(again)[name]), name


def test_a_finished_run_trains_nothing_more(tmp_path):
    best = fit(model(), train, validation, plan(2), Keeping(tmp_path))
    reporter = Keeping(tmp_path, restored=tmp_path / "1")
    again = fit(model(), lambda epoch: pytest.fail("trained"), validation, plan(2), reporter)
    assert again["epoch"] == best["epoch"]
    assert reporter.history == []


def test_the_best_epoch_is_the_first_of_the_highest_waf(tmp_path):
    reporter = Keeping(tmp_path)
    best = fit(model(), train, validation, plan(8), reporter)
    scores = [m["val_waf"] for m in reporter.history]
    assert best["epoch"] == scores.index(max(scores))
    state = load_state(tmp_path / str(best["epoch"]))["model"]
    assert all(torch.equal(best["model"][name], state[name]) for name in state)


def test_without_validation_the_last_epoch_is_kept():
    assert fit(model(), train, lambda epoch: [], plan(3), PlainReporter())["epoch"] == 2


def test_an_epoch_without_batches_is_an_error():
    with pytest.raises(ValueError, match="no training batches"):
        fit(model(), lambda epoch: [], validation, plan(1), PlainReporter())


def test_predict_gives_probabilities_in_order_and_leaves_the_mode():
    head = model().train()
    probability, label = predict(head, [make_batch(5, 1), make_batch(3, 2)])
    assert head.training
    assert probability.sum(axis=1) == pytest.approx([1] * 8, abs=1e-5)
    assert label.tolist() == [*make_batch(5, 1).label_B, *make_batch(3, 2).label_B]


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(i / 100, 0.1) for i in range(101)]
    assert factors[0] == 0
    assert factors[10] == pytest.approx(1.0)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(0, 0) == 1
