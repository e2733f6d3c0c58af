"""The claims' statistics against SciPy and sums by hand, and verdicts on made-up scores whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from emo_ray.config import Config, override
from emo_ray.config.model_settings import SUBSETS
from emo_ray.experiments.claims.comparisons import compare, summarise
from emo_ray.experiments.claims.trials import AS_DESCRIBED, HEADS, LADDER, OURS, seeds_of, trials_of

CONFIG = override(Config(), {"claims.worlds": 3, "claims.seeds": 2, "claims.dropout_rates": [0.0, 0.3, 0.5]})
PSEUDO = {"accepted/share": 0.4, "accepted/right": 0.9}


def made_up(value):
    """Scores of every trial: `value(name, subset, world)`, and half a point more or less with the seed."""
    scores = {}
    for name, trial in trials_of(CONFIG).items():
        keys = {"model": tuple(SUBSETS), "self-training": HEADS}.get(trial.kind, ("V",))
        spread = [0.005, -0.005] if seeds_of(trial, CONFIG) == 2 else [0.0]
        scores[name] = [
            [{f"{s}/{k}": value(name, k, w) + d for s in ("validation", "test") for k in keys} | PSEUDO for d in spread]
            for w in range(CONFIG.claims.worlds)
        ]
    return scores


def good(name, subset, world):
    """A method that does what it should, in worlds that are not all equally hard."""
    score = {"zero-shot CLIP": 0.5, OURS: 0.72, AS_DESCRIBED: 0.65}.get(name, 0.6) + 0.01 * world * (
        1 + 0.1 * (name == OURS)
    )
    if name.startswith("self-training"):
        few = name == "self-training, 60 labelled"
        score = 0.6 + 0.01 * world + (few * (0.05 + 0.001 * world) if subset in ("student", "kept") else 0.0)
    if name.startswith(("only", "dropout")):
        score = 0.5 + 0.1 * len(subset) + (0.05 if name == "dropout 0.5" and len(subset) < 3 else 0.0) + 0.01 * world
    return score


def test_a_summary_is_over_worlds():
    values = [0.70, 0.74, 0.72]
    estimate = summarise(np.array(values))
    assert estimate["mean"] == pytest.approx(np.mean(values))
    assert estimate["se"] == pytest.approx(stats.sem(values))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate["low"], estimate["high"]) == (pytest.approx(low), pytest.approx(high))


def test_one_world_has_no_standard_error():
    assert summarise(np.array([0.7])) == {"mean": pytest.approx(0.7), "se": None, "low": None, "high": None}


def test_a_method_that_does_what_it_should_holds_every_target():
    content = compare(CONFIG, made_up(good))
    judged = [d for d in content["differences"] if d["target"]]
    assert len(judged) == 13
    assert all(d["holds"] for d in judged), judged
    gain = next(d for d in content["differences"] if d["what"] == "EmoVCLIP − zero-shot CLIP")
    assert gain["mean"] == pytest.approx(0.22 + 0.001)
    assert gain["se"] == pytest.approx(stats.sem([0.22, 0.221, 0.222]))
    assert {t["claim"] for t in content["tables"]} == {1, 2, 3, 4, 5}
    assert content["empty"] == []
    assert "40 % of the others are accepted, and 90 % of their labels are right" in content["tables"][-1]["note"]


AWARE, BOTH = "linear probe, mean + slope", "linear probe, mean + deviation + slope"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda n, s, w: (w - 1) * 0.5 * (n == OURS), "EmoVCLIP − "),
        (lambda n, s, w: (w - 1) * 0.5 * (n == AS_DESCRIBED), "EmoVCLIP as described − "),
        (lambda n, s, w: 0.13 * (n == AWARE), f"EmoVCLIP − {AWARE}"),
        (lambda n, s, w: 0.13 * (n == BOTH), f"EmoVCLIP − {BOTH}"),
        (lambda n, s, w: -0.11 * (n == "only VAT"), "all three − V alone (the best)"),
        (lambda n, s, w: -0.03 * (n == "dropout 0.5" and len(s) < 3), "mean of the incomplete subsets"),
        (lambda n, s, w: -0.02 * (n == "dropout 0.5" and len(s) == 3), "dropout 0.5 − none, all three"),
        (lambda n, s, w: 0.06 * ("60 labelled" in n and s == "teacher"), "60 labelled: student − teacher"),
        (lambda n, s, w: 0.06 * ("60 labelled" in n and s == "longer"), "with the student's steps"),
        (lambda n, s, w: -0.01 * ("300 labelled" in n and s == "student"), "300 labelled: student − "),
    ],
)
def test_a_method_that_falls_short_fails_its_own_target_alone(change, what):
    """In the first two, worlds disagree so much that the standard error swallows the gains."""
    scores = made_up(lambda name, subset, world: good(name, subset, world) + change(name, subset, world))
    failed = [d["what"] for d in compare(CONFIG, scores)["differences"] if d["holds"] is False]
    assert failed
    assert all(what in name for name in failed), failed


def test_the_dropout_rate_is_chosen_on_validation_alone():
    scores = made_up(good)
    for world in scores["dropout 0.3"]:
        for trial in world:
            trial.update({key: 0.99 for key in trial if key.startswith("test/")})
    table = next(t for t in compare(CONFIG, scores)["tables"] if t["claim"] == 4)
    assert table["note"].startswith("rate 0.5 ")


def test_every_rung_of_the_ladder_only_adds_prompts():
    configs = [override(Config(), changes).emovclip for changes in LADDER.values()]
    sizes = [
        sum([bool(c.global_prompts), c.local_prompts, c.summary_prompt, c.context_tokens > 0, c.pooling == "attention"])
        for c in configs
    ]
    assert sizes == [1, 2, 3, 4, 5]
    assert configs[-1] == Config().emovclip
