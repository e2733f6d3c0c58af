"""What options give: trials with names of their own, and paired differences of made-up scores."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from emo_ray.config import Config, override
from emo_ray.config.model_settings import SUBSETS
from emo_ray.experiments.claims.claims import plan_trials
from emo_ray.experiments.claims.options import PLAIN, TRIALS, compare_options

JOINT, VIEWS = "joint phase, 3 epochs", "crops, 3 views"


def made_up():
    """Scores in which the joint phase gains on video alone, by more in later worlds, and views change nothing."""
    gain = {JOINT: 0.02}
    return {
        name: [
            [
                {
                    f"{split}/{key}": 0.5 + 0.1 * len(key) + (gain.get(name, 0) + 0.01 * world) * (key == "V")
                    for split in ("validation", "test")
                    for key in SUBSETS
                }
            ]
            for world in range(3)
        ]
        for name in TRIALS
    }


def test_an_option_is_compared_with_none_in_the_same_world():
    scores = made_up()
    for world, trials in enumerate(scores[JOINT]):
        trials[0]["test/V"] += 0.01 * world
    differences = {d["what"]: d for d in compare_options(Config(), scores)["differences"]}
    assert differences[f"V: {JOINT} − {PLAIN}"]["mean"] == pytest.approx(0.03)
    assert differences[f"V: {JOINT} − {PLAIN}"]["se"] == pytest.approx(stats.sem([0.02, 0.03, 0.04]))
    assert differences[f"VAT: {JOINT} − {PLAIN}"]["mean"] == pytest.approx(0)
    assert differences[f"mean of incomplete: {JOINT} − {PLAIN}"]["mean"] == pytest.approx(0.03 / 6)
    assert len(differences) == 3 * (len(TRIALS) - 1)


def test_runs_that_an_option_did_not_change_are_counted():
    scores = made_up()
    scores[VIEWS][1][0]["test/A"] += 0.01
    setup = compare_options(Config(), scores)["setup"]
    assert f"of 3 whose scores changed: joint phase, 1 epoch: 0, {JOINT}: 3, crops: 0, {VIEWS}: 1." in setup


def test_the_best_is_said_of_validation_clips_alone():
    scores = made_up()
    for world in scores[VIEWS]:
        world[0]["validation/VAT"] += 0.01
    for world in scores[JOINT]:
        world[0]["test/VAT"] += 0.1
    content = compare_options(Config(), scores)
    assert all(table["note"].endswith(VIEWS) for table in content["tables"])
    test = {row["name"]: [cell["mean"] for cell in row["cells"]] for row in content["tables"][1]["rows"]}
    assert np.allclose(test[JOINT], [0.63, 0.9, (0.63 + 0.6 * 2 + 0.7 * 3) / 6])


@pytest.mark.usefixtures("ray_session")
def test_every_option_is_a_trial_of_its_own(tiny_config, evaluated):
    changes = {"claims.part": "options", "claims.worlds": 1, "claims.seeds": 2, "synthetic.seed": -1}
    planned = plan_trials(override(tiny_config, changes), Path(tiny_config.store.root))
    assert [trial.name for trial in planned[::2]] == list(TRIALS)
    assert len({trial.folder for trial in planned}) == 2 * len(TRIALS)
