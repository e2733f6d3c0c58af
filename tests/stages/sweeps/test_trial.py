"""A trial of Ray Tune: the train stage with an override, whose epochs are reported over both phases."""

import pytest

from emo_ray.config import load
from emo_ray.training import search

pytestmark = pytest.mark.usefixtures("ray_session")


def test_trials_of_ray_tune_see_every_epoch_of_both_phases(prompt_sweep):
    config, swept = prompt_sweep.config, prompt_sweep.result
    trials, last = swept.content["trials"], 2 * config.train.epochs
    assert [trial["number"] for trial in trials] == list(range(4))
    for trial in trials:
        assert [epoch for epoch, _ in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert (trial["epochs"] == last) is (trial["state"] == "complete")
        for epoch, value in trial["history"]:
            assert (value < 0) is (epoch <= config.train.epochs)  # no head is trained yet
    assert trials[swept.content["default"]]["state"] == "complete"


def test_a_trial_of_ray_tune_is_the_train_stage_with_an_override(prompt_sweep, reached):
    """The train stage finds its checkpoint."""
    config, swept = prompt_sweep.config, prompt_sweep.result
    for trial in swept.content["trials"]:
        if trial["state"] == "complete":
            assert reached(search.applied(config, trial["params"])) == trial["value"]


def test_prompts_that_two_trials_share_are_trained_once(prompt_sweep):
    config, swept = prompt_sweep.config, prompt_sweep.result
    trials = [trial for trial in swept.content["trials"] if trial["epochs"] > config.train.epochs]  # with a head
    used = [trial["params"]["emovclip.global_prompts"] for trial in trials]
    new = [load(str(path / "config.yaml")).emovclip.global_prompts for path in prompt_sweep.emovclips]
    assert len(used) > len(set(used))
    assert len(new) == len(set(new))
    assert set(used) <= {*new, config.emovclip.global_prompts}
    assert config.emovclip.global_prompts not in new
