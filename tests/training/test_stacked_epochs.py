"""Epochs in a stack are those that the loop trains step by step, and each goes on from the other's state."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from devices import DEVICES
from small_heads import CONFIG, EPOCHS, SIZES, clips, in_dialogues

from emo_ray.config import override
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.models.head_average import together
from emo_ray.training import in_memory, loop, stacked_epochs, stacked_noise
from emo_ray.training.loss import class_weights, logit_shift, shown_rows
from emo_ray.training.run_state import STATE
from emo_ray.training.stacked_epochs import StackedEpochs

TRAIN, VALIDATION = clips(70, 0), clips(90, 1)
CHANGES = {
    "as it is": {},
    "context": {"context.before": 2, "context.after": 1},
    "balance": {"class_weights": "balanced", "logit_adjustment": 1.5},
    "sampling": {"sampling": "balanced", "batch_size": 9},
    "one batch": {"batch_size": 10_000},
    "nothing hidden": {"modality_dropout": 0.0, "batch_size": 7},
}


class KeptStates(loop.PlainReporter):
    """Keeps the last state in a folder, and restores it."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.steps = folder, []

    def restore(self):
        return self.folder if (self.folder / STATE).exists() else None

    def report(self, metrics, state):
        super().report(metrics, state)
        self.keep(state)

    def keep(self, state):
        shutil.copyfile(state / STATE, self.folder / STATE)

    def progress(self, epoch, step, steps):
        self.steps.append((epoch, step, steps))


def trained(folder, epochs, config=CONFIG, heads=3, train=TRAIN, device="cpu", **settings):
    """Train an average of heads, or go on from the folder: the best epoch, and the reporter."""
    fusion = config.fusion
    torch.manual_seed(0)
    rates = feature_rates(train, fusion.feature_dropout)
    model = together([FusionHead(fusion, scalings(train), 4, rates) for _ in range(heads)]).to(device)
    weight_B = train.soft and train.soft.weight_B
    balance = class_weights(fusion, train.label_B, "0123", weight_B), logit_shift(fusion, train.label_B, 4, weight_B)
    rows = shown_rows(fusion, train.label_B)
    shown = train if rows is None else train.rows(rows)
    steps = -(-len(shown) // fusion.batch_size) * fusion.passes_per_epoch
    plan = loop.LoopSettings(
        fusion, EPOCHS, steps, 5, class_weight_K=balance[0], logit_shift_K=balance[1], subsets=True, **settings
    )
    reporter = KeptStates(folder)
    validation = in_dialogues(VALIDATION, 1) if fusion.context.offsets else VALIDATION
    best = loop.fit_epochs(
        model, epochs(shown, fusion, plan.seed), lambda epoch: in_memory.chunks(validation), plan, reporter
    )
    return best, reporter, model


def in_steps(clips, settings, seed):
    return loop.by_steps(in_memory.batches_in_memory(clips, settings.batch_size, seed, settings.passes_per_epoch))


def in_stack(clips, settings, seed):
    return StackedEpochs(clips, settings)


def assert_same(actual, expected):
    (best, reporter, model), (expected_best, expected_reporter, expected_model) = actual, expected
    assert best["epoch"] == expected_best["epoch"]
    speeds = set(loop.TIMES)
    for metrics, others in zip(reporter.history, expected_reporter.history, strict=True):
        assert {name: value for name, value in metrics.items() if name not in speeds} == pytest.approx(
            {name: value for name, value in others.items() if name not in speeds}, abs=1e-4
        )
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.cpu(), expected_model.state_dict()[name].cpu(), atol=1e-4, rtol=1e-3)


# Three heads have targets, which weigh clips, as classes and their prior do; of the other changes each has one number.
HEADS = {"as it is": [1, 3], "balance": [1, 3], "context": [3], "one batch": [3]}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        pytest.param(changes, heads, id=f"{name}-{heads}")
        for name, changes in CHANGES.items()
        for heads in HEADS.get(name, [1])
    ],
)
def test_a_stack_is_trained_as_the_loop_does_it(tmp_path, monkeypatch, changes, heads, device):
    monkeypatch.setattr(stacked_noise, "_BYTES", 20_000)  # a few steps at a time
    config = override(CONFIG, {f"fusion.{name}": value for name, value in changes.items()})
    train = clips(70, 0, soft=heads == 3)
    if "modality_dropout" in changes:  # then nothing ever is in the place of a modality
        train = replace(train, present_BM=torch.ones_like(train.present_BM))
    if "context.before" in changes:
        train = in_dialogues(train, 0)
    folders = [tmp_path / "stack", tmp_path / "steps"]
    for folder in folders:
        folder.mkdir()
    stack, steps = (
        trained(folder, epochs, config, heads, train, where)
        for folder, epochs, where in zip(folders, (in_stack, in_steps), (device, "cpu"), strict=True)
    )
    assert_same(stack, steps)
    assert stack[1].steps == steps[1].steps


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """An average of heads that the loop trains without a break."""
    return trained(tmp_path_factory.mktemp("whole"), in_steps)


def after(expected, epochs):
    """The same without its first epochs."""
    best, reporter, model = expected
    rest = loop.PlainReporter()
    rest.history = reporter.history[epochs:]
    return best, rest, model


@pytest.mark.parametrize("ways", [(in_stack, in_steps), (in_steps, in_stack), (in_stack, in_stack)])
def test_a_run_goes_on_from_the_state_of_the_other_way(tmp_path, expected, ways):
    first, second = ways
    trained(tmp_path, first, stop_after=2)
    assert_same(trained(tmp_path, second), after(expected, 2))


class Killed(Exception):
    """A run that is killed."""


@pytest.mark.parametrize(("first", "second"), [(in_stack, in_stack), (in_stack, in_steps), (in_steps, in_stack)])
def test_an_epoch_that_was_under_way_is_ended(tmp_path, expected, monkeypatch, first, second):
    monkeypatch.setattr(stacked_noise, "_BYTES", 20_000)

    def keep(self, state, kept=KeptStates.keep):
        kept(self, state)
        if self.steps[-1][:2] == (1, 3):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(KeptStates, "keep", keep)
        with pytest.raises(Killed):
            trained(tmp_path, first, save_every=3)
    actual = trained(tmp_path, second)
    assert actual[1].steps[0] == (1, 4, 10)
    assert_same(actual, after(expected, 1))


def test_what_a_stack_cannot_do_or_does_no_faster_is_left_to_the_steps(monkeypatch):
    settings = partial(loop.LoopSettings, epochs=1, steps_per_epoch=1, seed=0)
    in_parts, whole = (
        settings(override(CONFIG, {"fusion.micro_batch_size": size}).fusion) for size in (8, CONFIG.fusion.batch_size)
    )
    assert not stacked_epochs.is_usable(in_parts, TRAIN)
    assert stacked_epochs.is_usable(whole, TRAIN)
    assert not stacked_epochs.is_usable(replace(whole, ema=0.9), TRAIN)
    monkeypatch.setattr(stacked_epochs, "_MOST_BYTES", 4 * 70 * sum(SIZES.values()))
    assert stacked_epochs.is_usable(whole, TRAIN)
    assert not stacked_epochs.is_usable(whole, in_dialogues(TRAIN, 0))
