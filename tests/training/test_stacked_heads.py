"""Heads trained together become the heads that the loop would train one by one."""

from dataclasses import replace

import pytest
import torch
from devices import DEVICES
from small_heads import CONFIG, EPOCHS, clips, in_dialogues

from emo_ray.config import override
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.training import in_memory, loop
from emo_ray.training.head_stacks import Heads
from emo_ray.training.loss import class_weights, logit_shift, shown_rows
from emo_ray.training.metrics import validation_metrics
from emo_ray.training.stacked_clips import Clips
from emo_ray.training.stacked_heads import HeadConfig, StackedHeads

EACH = {"video": 0.5, "audio": 0.1, "text": 0.3}


def fresh(config, train):
    torch.manual_seed(config.seed)
    return FusionHead(config.settings, scalings(train), 4, feature_rates(train, config.settings.feature_dropout))


def alone(config, train, validation):
    """Train one head with the loop: the metrics of every epoch, and the final weights."""
    head, reporter, settings = fresh(config, train), loop.PlainReporter(), config.settings
    weight_K = class_weights(settings, train.label_B, "0123", train.soft and train.soft.weight_B)
    shift_K = logit_shift(settings, train.label_B, 4, train.soft and train.soft.weight_B)
    rows = shown_rows(settings, train.label_B)
    train = train if rows is None else train.rows(rows)
    steps = -(-len(train) // settings.batch_size) * settings.passes_per_epoch
    balance = {"class_weight_K": weight_K, "logit_shift_K": shift_K}
    plan = loop.LoopSettings(settings, EPOCHS, steps, config.seed, **balance, subsets=True)
    loop.fit(
        head,
        in_memory.batches_in_memory(train, settings.batch_size, config.seed, settings.passes_per_epoch),
        lambda epoch: in_memory.chunks(validation),
        plan,
        reporter,
    )
    return reporter.history, head.state_dict()


def together(configs, train, validation):
    stacked = StackedHeads([fresh(config, train) for config in configs], configs, [Clips(train, validation)], EPOCHS)
    epochs = [stacked.epoch() for _ in range(EPOCHS)]
    return [[epoch[i] for epoch in epochs] for i in range(len(configs))], [
        stacked.state(i) for i in range(len(configs))
    ]


def configs_of(*changes):
    return [
        HeadConfig(override(CONFIG, {f"fusion.{k}": v for k, v in settings.items()}).fusion, seed)
        for seed, settings in changes
    ]


CHANGES = {
    "one seed": [(0, {}), (0, {"lr": 3e-3, "dropout": 0.0}), (0, {"modality_dropout": 0.0, "label_smoothing": 0.0})],
    "seeds": [(0, {}), (1, {}), (2, {"lr": 2e-3, "warmup_fraction": 0.0, "weight_decay": 0.3}), (1, {"dropout": 0.6})],
    "rates of each": [(0, {"modality_dropout": EACH}), (3, {"modality_dropout": {**EACH, "text": 0.9}})],
    "context": [(0, {"context.before": 2, "context.after": 1}), (1, {"context.before": 2, "context.after": 1})],
    "weights": [(0, {"class_weights": "balanced"}), (1, {"grad_clip_norm": 0.05})],
    "balance": [(0, {"class_weights": {"0": 1.0, "1": 2.0, "2": 0.1, "3": 3.0}}), (1, {"logit_adjustment": 1.5})],
    "sampling": [(0, {"sampling": "balanced"}), (1, {"sampling": "balanced", "dropout": 0.1})],
}


# Targets weigh clips, which classes, their prior and sampling do too; of the other changes each has one kind.
TARGETS = {"seeds": [True], "rates of each": [True], "weights": [False, True], "balance": [False, True]}


@pytest.mark.parametrize(
    ("changes", "soft"),
    [
        pytest.param(changes, soft, id=f"{name}-{'targets' if soft else 'labels'}")
        for name, changes in CHANGES.items()
        for soft in TARGETS.get(name, [False])
    ],
)
def test_each_head_is_what_the_loop_makes_alone(changes, soft):
    train, validation, configs = (
        in_dialogues(clips(70, 0, soft), 0),
        in_dialogues(clips(90, 1), 1),
        configs_of(*changes),
    )
    curves, states = together(configs, train, validation)
    for config, epochs, state in zip(configs, curves, states, strict=True):
        history, expected = alone(config, train, validation)
        assert [e.train_loss for e in epochs] == pytest.approx([h["train_loss"] for h in history], abs=1e-4)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)
        for epoch, metrics in zip(epochs, history, strict=True):
            actual = validation_metrics(epoch.counts_SKK, epoch.loss_sum, tuple(loop.SUBSETS))
            assert actual == pytest.approx({k: v for k, v in metrics.items() if k.startswith("val_")})


def test_heads_that_are_taken_out_change_nothing_for_the_others():
    train, validation = clips(70, 0), clips(90, 1)
    configs = configs_of((0, {}), (1, {}), (0, {"lr": 3e-3}), (2, {}))
    curves, states = together(configs, train, validation)
    stacked = StackedHeads([fresh(config, train) for config in configs], configs, [Clips(train, validation)], EPOCHS)
    stacked.epoch()
    stacked.select([0, 2, 3])
    second = stacked.epoch()
    assert [e.train_loss for e in second] == pytest.approx([curves[i][1].train_loss for i in (0, 2, 3)], abs=1e-5)
    stacked.select([1])
    last = stacked.epoch()
    assert last[0].train_loss == pytest.approx(curves[2][2].train_loss, abs=1e-5)
    for name, value in stacked.state(0).items():
        torch.testing.assert_close(value, states[2][name], atol=1e-5, rtol=1e-4)


def test_a_modality_that_no_training_clip_has_is_absent_for_all():
    train, validation = clips(70, 0), clips(90, 1)
    train = replace(train, present_BM=train.present_BM & torch.tensor([True, True, False]))
    train = train.rows(train.present_BM.any(dim=1))
    configs = configs_of((0, {}), (1, {}))
    for config, epochs in zip(configs, together(configs, train, validation)[0], strict=True):
        history, _ = alone(config, train, validation)
        assert [e.train_loss for e in epochs] == pytest.approx([h["train_loss"] for h in history], abs=1e-4)


def test_a_modality_that_only_the_start_knows_is_left_as_it_was():
    everything, validation = clips(70, 0), clips(90, 1)
    features = {name: rows for name, rows in everything.features.items() if name != "text"}
    train = replace(everything, features=features, present_BM=everything.present_BM & torch.tensor([True, True, False]))
    train = train.rows(train.present_BM.any(dim=1))
    configs = configs_of((0, {}), (1, {}))
    heads = [fresh(config, everything) for config in configs]
    stacked = StackedHeads(heads, configs, [Clips(train, validation)], EPOCHS)
    stacked.epoch()
    stacked.select([1])
    state = stacked.state(0)
    for name, value in heads[1].named_parameters():
        assert torch.equal(state[name], value) is name.startswith("project.text"), name


def test_without_validation_clips_nothing_is_counted():
    configs = configs_of((0, {}))
    assert together(configs, clips(40, 0), None)[0][0][-1].counts_SKK is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offsets", [{}, {"context.before": 1, "context.after": 1}], ids=["alone", "context"])
def test_heads_of_any_settings_and_folds_are_what_the_loop_makes_alone(offsets, device):
    """Widths, batches, passes and folds of other sizes: some heads have no clips left in the last steps of others."""
    folds = [
        Clips(in_dialogues(clips(count, seed), seed), in_dialogues(clips(30, 5), 5))
        for seed, count in enumerate((70, 40))
    ]
    shapes = [{}, {"hidden": 8}, {"batch_size": 8, "passes_per_epoch": 1}, {"dropout": 0.1}]
    configs = [
        replace(config, fold=fold)
        for fold, fold_shapes in enumerate((shapes, shapes[::2]))
        for config in configs_of(*((seed, {**change, **offsets}) for seed, change in enumerate(fold_shapes)))
    ]
    fresh_heads = [fresh(config, folds[config.fold].train) for config in configs]
    heads = Heads(fresh_heads, configs, folds, EPOCHS, torch.device(device))
    epochs = [heads.epoch(None) for _ in range(EPOCHS - 1)] + [heads.epoch(("VA",))]
    assert max(len(numbers) for numbers, _ in heads.stacks) > 2, "heads of both folds share a stack"
    for i, config in enumerate(configs):
        history, expected = alone(config, folds[config.fold].train, folds[config.fold].validation)
        assert [epoch[i].train_loss for epoch in epochs] == pytest.approx([h["train_loss"] for h in history], abs=1e-4)
        for name, value in heads.state(i).items():
            torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)
        measured = validation_metrics(epochs[-1][i].counts_SKK, epochs[-1][i].loss_sum, tuple(loop.SUBSETS))
        assert measured == pytest.approx(
            {name: history[-1][name] for name in measured if "mean" not in name}
            | {name: history[-1][name.replace("mean", "VA")] for name in measured if "mean" in name}
        )
        assert epochs[0][i].counts_SKK is None


@pytest.mark.parametrize("offsets", [{}, {"context.before": 1}], ids=["alone", "context"])
def test_heads_of_a_small_fold_go_on_where_those_of_a_larger_one_are_taken_out(offsets):
    folds = [Clips(in_dialogues(clips(count, count), count, (-1,)), None) for count in (40, 70)]
    configs = [replace(config, fold=fold) for fold in (0, 1) for config in configs_of((0, offsets), (1, offsets))]
    heads = Heads([fresh(config, folds[config.fold].train) for config in configs], configs, folds, EPOCHS)
    epochs = [heads.epoch(None)]
    heads.select([0, 1])
    epochs += [heads.epoch(None) for _ in range(EPOCHS - 1)]
    for i, config in enumerate(configs[:2]):
        history, _ = alone(config, folds[0].train, in_dialogues(clips(30, 5), 5, (-1,)))
        assert [epoch[i].train_loss for epoch in epochs] == pytest.approx([h["train_loss"] for h in history], abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"hidden": 8}, {"batch_size": 8}, {"passes_per_epoch": 1}, {"modality_dropout": EACH}, {"context.after": 1}],
)
def test_heads_of_other_shapes_are_refused(change):
    configs, train = configs_of((0, {}), (0, change)), clips(40, 0)
    with pytest.raises(ValueError, match=f"differ in fusion.{next(iter(change)).partition('.')[0]}"):
        StackedHeads([fresh(config, train) for config in configs], configs, [Clips(train, None)], EPOCHS)


def test_a_head_that_diverges_is_told_and_leaves_the_others_as_they_are():
    train, validation = clips(40, 0), clips(20, 1)
    good, bad = configs_of((0, {"lr": 1e-2}), (0, {"lr": 1e30}))
    folds = [Clips(train, validation)]
    both = StackedHeads([fresh(config, train) for config in (bad, good)], [bad, good], folds, EPOCHS)
    alone = StackedHeads([fresh(good, train)], [good], folds, EPOCHS)
    (bad_epoch, good_epoch), (expected,) = both.epoch(), alone.epoch()
    assert not bad_epoch.is_finite
    assert good_epoch.is_finite
    assert good_epoch.train_loss == pytest.approx(expected.train_loss)
    assert (good_epoch.counts_SKK == expected.counts_SKK).all()
