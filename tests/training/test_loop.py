"""The training loop: it learns, it keeps the best epoch."""

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_runs import CENTRES, HEAD, Keeping, make_batch, model, plan, timeless, train, validation

from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import SoftTargets
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.training.loop import LoopSettings, PlainReporter, _backward, fit, predict
from emo_ray.training.metrics import metrics
from emo_ray.training.run_state import load_state
from emo_ray.training.wait_timer import WaitTimer


def test_it_learns():
    reporter = PlainReporter()
    best = fit(model(), train, validation, plan(12), reporter)
    assert best["metrics"]["val_waf"] > 0.9
    assert reporter.history[-1]["train_loss"] < reporter.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    weights = []
    for seed in (3, 3, 4):
        trained = fit(model(), train, validation, LoopSettings(HEAD, 3, 6, seed), PlainReporter())["model"]
        weights.append(trained["classify.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_subsets_are_validated_on_the_clips_that_have_all_of_them_shown_nothing_else():
    head, whole = model(), make_batch(60, 7)
    whole = replace(whole, present_BM=torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) < 0.6)
    reporter = PlainReporter()
    fit(
        head,
        train,
        lambda epoch: [whole.rows(i) for i in torch.arange(60).split(25)],
        replace(plan(1), subsets=True),
        reporter,
    )
    actual, wafs = reporter.history[0], []
    assert actual["val_waf"] == pytest.approx(metrics(*predict(head, [whole]))["waf"])
    for name, names in SUBSETS.items():
        shown = torch.tensor([one in names for one in MODALITIES])
        rows = whole.rows(torch.tensor([all(row[shown]) for row in whole.present_BM]))
        expected = metrics(*predict(head, [replace(rows, present_BM=rows.present_BM & shown)]))
        assert {k: actual[f"val_{name}/{k}"] for k in ("waf", "uar")} == pytest.approx(
            {k: expected[k] for k in ("waf", "uar")}
        )
        wafs.append(expected["waf"])
    assert actual["val_mean/waf"] == pytest.approx(sum(wafs) / 7)


def test_a_subset_that_no_clip_has_all_of_is_not_measured():
    whole = make_batch(30, 7)
    whole = replace(whole, present_BM=whole.present_BM & torch.tensor([True, True, False]))
    reporter = PlainReporter()
    fit(model(), train, lambda epoch: [whole], replace(plan(1), subsets=True), reporter)
    actual = {name for name in SUBSETS if f"val_{name}/waf" in reporter.history[0]}
    assert actual == {"V", "A", "VA"}


def soft(batch):
    """The same clips, every third of them pseudo-labelled, with random weights."""
    generator = torch.Generator().manual_seed(len(batch))
    target_BK = torch.eye(3)[batch.label_B]
    target_BK[::3] = torch.rand(len(batch), 3, generator=generator).softmax(dim=1)[::3]
    return replace(
        batch,
        soft=SoftTargets(target_BK=target_BK, weight_B=0.1 + torch.rand(len(batch), generator=generator)),
    )


def weighing(clips):
    """The same with weights of 0, but for the first so many clips of a batch."""

    def weighed(batch):
        batch = soft(batch)
        return replace(batch, soft=replace(batch.soft, weight_B=(torch.arange(len(batch)) < clips).float()))

    return weighed


def labels(batch):
    """The clips as they are."""
    return batch


HEAVY = torch.tensor([0.2, 1.0, 3.0])


@pytest.mark.parametrize(
    ("size", "class_weight_K", "with_targets"),
    [
        *((5, None, labels), (15, HEAVY, labels), (5, None, soft), (15, HEAVY, soft), (1, HEAVY, soft)),
        *((5, None, weighing(2)), (5, None, weighing(0))),
    ],
)
def test_micro_batches_train_the_same_model(size, class_weight_K, with_targets):
    states, losses = [], []
    for micro_batch_size in (None, size):
        settings = HEAD.model_copy(update={"dropout": 0, "modality_dropout": 0, "micro_batch_size": micro_batch_size})
        torch.manual_seed(0)
        head = FusionHead(settings, {m: torch.stack([torch.zeros(6), torch.ones(6)]) for m in MODALITIES}, 3)
        reporter = PlainReporter()
        batches = [[with_targets(batch) for batch in train(epoch)] for epoch in range(2)]
        plan = LoopSettings(settings, 2, 6, 3, class_weight_K=class_weight_K)
        states.append(fit(head, lambda epoch, steps, b=batches: b[epoch], validation, plan, reporter)["model"])
        losses.append([m["train_loss"] for m in reporter.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-4, rtol=1e-4)


def work_as(rank, folder):
    """One of two workers: it writes its gradients, after DDP's mean, on its half of each batch that both have."""
    from datetime import timedelta

    import torch

    from emo_ray.training import loop

    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(minutes=2)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, **meeting)
    for name, (head, batch, settings) in torch.load(f"{folder}/work.pt", weights_only=False).items():
        model = torch.nn.parallel.DistributedDataParallel(head)
        half = torch.arange(len(batch)).chunk(2)[rank]
        value = loop._backward(model, batch.rows(half), settings, settings.class_weight_K)
        result = {key: p.grad for key, p in head.named_parameters()} | {"loss": value}
        torch.save(result, f"{folder}/{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_take_the_gradient_of_the_whole_batch(tmp_path):
    """The halves have different weights of clips and classes; with micro-batches and without."""
    work = {}
    for name, batch, class_weight_K in [
        ("labels", make_batch(16, 1), None),
        ("classes", make_batch(16, 1), HEAVY),
        ("targets", soft(make_batch(16, 1)), None),
        ("both", soft(make_batch(16, 1)), HEAVY),
    ]:
        for size in (None, 3):
            settings = HEAD.model_copy(update={"dropout": 0, "modality_dropout": 0, "micro_batch_size": size})
            torch.manual_seed(0)
            head = FusionHead(settings, {m: torch.stack([torch.zeros(6), torch.ones(6)]) for m in MODALITIES}, 3)
            work[f"{name}-{size}"] = head, batch, LoopSettings(settings, 1, 1, 0, class_weight_K=class_weight_K)
    torch.save(work, tmp_path / "work.pt")
    code = f"{inspect.getsource(work_as)}\nimport sys\nwork_as(1, sys.argv[1])"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    work_as(0, tmp_path)  # this process is the first
    assert other.wait(timeout=120) == 0
    for name, (head, batch, settings) in work.items():
        expected = _backward(head, batch, settings, settings.class_weight_K)
        results = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)]
        torch.testing.assert_close((results[0].pop("loss") + results[1].pop("loss")) / 2, expected)
        for key, parameter in head.named_parameters():
            torch.testing.assert_close(results[0][key], parameter.grad, atol=1e-6, rtol=1e-4)
            assert torch.equal(results[0][key], results[1][key])


def test_waiting_is_counted_where_it_is_spent():
    def work():
        for _ in range(30):
            CENTRES.mm(CENTRES.T).inverse()

    def slow_items():
        for i in range(20):
            work()
            yield i

    slow, quick = WaitTimer(slow_items()), WaitTimer(range(20))
    assert list(slow) == list(range(20))
    for _ in quick:
        work()
    assert slow.seconds > 5 * quick.seconds > 0


def test_the_average_of_the_weights_is_what_is_validated_and_kept():
    """The weights that are trained are the same with it and without; it is the average of them after each step."""
    plain, averaged, heads = PlainReporter(), PlainReporter(), (model(), model())
    fit(heads[0], train, validation, plan(3), plain)
    best = fit(heads[1], train, validation, replace(plan(3), ema=0.9), averaged)
    for name, value in trained_state(heads[0]).items():
        assert torch.equal(value, trained_state(heads[1])[name]), name
    assert [m["train_loss"] for m in averaged.history] == [m["train_loss"] for m in plain.history]
    assert [m["val_loss"] for m in averaged.history] != [m["val_loss"] for m in plain.history]
    kept = model()
    kept.load_state_dict(best["model"])
    assert metrics(*predict(kept, validation(0)))["waf"] == pytest.approx(best["metrics"]["val_waf"])


def test_what_is_trained_on_is_what_augmentation_makes_of_it():
    """Validation clips stay as they are."""
    seen = []

    def augment(batch, epoch):
        seen.append((epoch, len(batch)))
        return replace(batch, label_B=(batch.label_B + 1) % 3)

    head = model()
    fit(head, train, validation, replace(plan(6), augment=augment), PlainReporter())
    assert seen == [(epoch, 16) for epoch in range(6) for _ in range(6)]
    probability, label = predict(head, validation(0))
    assert (probability.argmax(axis=1) == (label + 1) % 3).mean() > 0.8


def test_the_best_epoch_has_the_highest_waf_and_of_equal_ones_the_least_loss(tmp_path):
    reporter = Keeping(tmp_path)
    best = fit(model(), train, validation, plan(8), reporter)
    scores = [(m["val_waf"], -m["val_loss"]) for m in reporter.history]
    assert len({waf for waf, _ in scores}) < len(scores), "a test of ties needs some"
    assert best["epoch"] == scores.index(max(scores))
    state = load_state(tmp_path / str(best["epoch"]))["model"]
    assert all(torch.equal(best["model"][name], state[name]) for name in state)


def test_without_validation_the_last_epoch_is_kept():
    assert fit(model(), train, lambda epoch: [], plan(3), PlainReporter())["epoch"] == 2


def test_an_epoch_without_batches_is_an_error():
    with pytest.raises(ValueError, match="no training batches"):
        fit(model(), lambda epoch, steps: [], validation, plan(1), PlainReporter())


def test_predict_gives_probabilities_in_order_and_leaves_the_mode():
    head = model().train()
    probability, label = predict(head, [make_batch(5, 1), make_batch(3, 2)])
    assert head.training
    assert probability.sum(axis=1) == pytest.approx([1] * 8, abs=1e-5)
    assert label.tolist() == [*make_batch(5, 1).label_B, *make_batch(3, 2).label_B]


def diverging(epoch_of_nan):
    """Training batches of which one epoch makes gradients that are not finite."""

    def batches(epoch, steps):
        for batch in train(epoch, steps):
            weight_B = torch.full((len(batch),), torch.inf if epoch == epoch_of_nan else 1.0)
            target_BK = torch.nn.functional.one_hot(batch.label_B, 3).float()
            yield replace(batch, soft=SoftTargets(target_BK=target_BK, weight_B=weight_B))

    return batches


def test_training_stops_at_the_last_good_state(tmp_path):
    whole, reporter = Keeping(tmp_path / "whole"), Keeping(tmp_path / "diverged")
    fit(model(), diverging(None), validation, plan(4), whole)
    best = fit(model(), diverging(2), validation, plan(4), reporter)
    assert [metrics["epoch"] for metrics in reporter.history] == [0, 1]
    assert list(map(timeless, reporter.history)) == list(map(timeless, whole.history[:2]))
    assert best["epoch"] in (0, 1)
    states = [load_state(tmp_path / name / "1") for name in ("whole", "diverged")]
    assert all(torch.equal(states[0]["model"][name], value) for name, value in states[1]["model"].items())
    again = Keeping(tmp_path / "again", restored=tmp_path / "diverged/1")
    assert fit(model(), diverging(2), validation, plan(4), again)["epoch"] == best["epoch"]
    assert not again.history  # it stops at the same epoch


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_training_that_has_no_good_state_says_so(lr):
    settings = replace(plan(3), optimisation=HEAD.model_copy(update={"lr": lr}))
    with pytest.raises(ValueError, match=r"fusion\.lr=1e\+3\d: .*epoch 1"):
        fit(model(), train, validation, settings, PlainReporter())


def test_logits_that_overflow_end_training_too():
    class Overflowing(FusionHead):
        def forward(self, batch):
            output = super().forward(batch)
            return output if self.training else output._replace(logits_BK=output.logits_BK * torch.inf)

    torch.manual_seed(0)
    head = Overflowing(HEAD, {m: torch.stack([torch.zeros(6), torch.ones(6)]) for m in MODALITIES}, 3)
    with pytest.raises(ValueError, match=r"fusion\.lr"):
        fit(head, train, validation, plan(3), PlainReporter())
    with pytest.raises(ValueError, match=r"clip '0': found a probability that is not finite"):
        predict(head, validation(0))
