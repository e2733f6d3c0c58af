"""A run that was killed goes on to the bytes of one that was not, between epochs and inside them."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from small_runs import HEAD, Keeping, model, plan, timeless, train, validation

from emo_ray.models.trainable_state import trained_state
from emo_ray.store import DamagedFile
from emo_ray.training.loop import PlainReporter, fit
from emo_ray.training.optimizer import optimizer_of
from emo_ray.training.run_state import RunState


@cache
def undisturbed_run(epochs, ema):
    """The best of a run that nothing disturbs, its reporter, and the weights that it ends with."""
    reporter, whole = PlainReporter(), model()
    best = fit(whole, train, validation, replace(plan(epochs), ema=ema), reporter)
    return best, reporter, trained_state(whole)


@pytest.mark.parametrize("last_seen", [0, 2])
@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path, last_seen, ema):
    settings = replace(plan(5), ema=ema)
    best, undisturbed, weights = undisturbed_run(5, ema)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), train, validation, settings, Keeping(tmp_path, dies_after=last_seen))
    resumed, again = PlainReporter(), model()
    resumed.restore = lambda: tmp_path / str(last_seen)
    best_again = fit(again, train, validation, settings, resumed)
    assert best_again["epoch"] == best["epoch"]
    assert all(torch.equal(value, best_again["model"][name]) for name, value in best["model"].items())
    assert [timeless(m) for m in resumed.history] == [timeless(m) for m in undisturbed.history[last_seen + 1 :]]
    for name, value in weights.items():
        assert torch.equal(value, trained_state(again)[name]), name


@pytest.mark.parametrize("dies_at", [(0, 3), (2, 5), (2, 6)])
@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_run_that_is_killed_inside_an_epoch_ends_where_an_undisturbed_one_does(tmp_path, dies_at, ema):
    """Only the steps after the last saved state are trained again, with the noise that they had."""
    settings, steps_done = replace(plan(4), ema=ema, save_every=2), []
    best, undisturbed, weights = undisturbed_run(4, ema)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), train, validation, settings, Keeping(tmp_path, dies_at=dies_at))
    resumed, again = PlainReporter(), model()
    resumed.restore = lambda: tmp_path / "inside"
    resumed.progress = lambda epoch, step, steps: steps_done.append((epoch, step))
    best_again = fit(again, train, validation, settings, resumed)
    epoch, step = dies_at
    assert steps_done[0] == (epoch, (step - 1) // 2 * 2 + 1)
    assert best_again["epoch"] == best["epoch"]
    assert all(torch.equal(value, best_again["model"][name]) for name, value in best["model"].items())
    assert [timeless(m) for m in resumed.history] == [timeless(m) for m in undisturbed.history[epoch:]]
    for name, value in weights.items():
        assert torch.equal(value, trained_state(again)[name]), name


def test_an_epoch_goes_on_with_another_number_of_workers(tmp_path):
    """The new ranks add up what all old ones had, once; each of the same number of ranks goes on with its own sums."""

    def state(rank, ranks):
        head = model()
        return RunState(head, optimizer_of(head, HEAD, torch.device("cpu")), None, rank, ranks)

    before = [state(rank, 3) for rank in range(3)]
    for rank, run in enumerate(before):
        for _ in range(4):
            run.sums.add(torch.tensor(0.5 * (1 + rank)), 2)
    with before[0].written(trained_state(before[0].model), [run.share() for run in before]) as folder:
        for ranks, expected in [(3, [(4, 8), (8, 8), (12, 8)]), (2, [(24, 24), (0, 0)]), (1, [(24, 24)])]:
            after = [state(rank, ranks) for rank in range(ranks)]
            for run in after:
                run.restore(folder)
                with run.epoch_under_way(seed=0):
                    assert (run.epoch, run.sums.steps) == (0, 4)
            assert [(float(run.sums.loss), run.sums.clips) for run in after] == expected


def test_a_finished_run_trains_nothing_more(tmp_path):
    best = fit(model(), train, validation, plan(2), Keeping(tmp_path))
    reporter = Keeping(tmp_path, restored=tmp_path / "1")
    again = fit(model(), lambda epoch, steps: pytest.fail("trained"), validation, plan(2), reporter)
    assert again["epoch"] == best["epoch"]
    assert reporter.history == []


@pytest.mark.parametrize("content", [b"", b"not a state", b"cut"])
def test_a_state_that_cannot_be_read_is_named(tmp_path, content):
    reporter = Keeping(tmp_path)
    fit(model(), train, validation, plan(1), reporter)
    path = tmp_path / "0/state.pt"
    path.write_bytes(path.read_bytes()[:1000] if content == b"cut" else content)
    with pytest.raises(DamagedFile, match=r"0/state\.pt: .*no state"):
        fit(model(), train, validation, plan(2), Keeping(tmp_path, restored=tmp_path / "0"))
