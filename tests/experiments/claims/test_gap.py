"""The measurement across a gap: what is chosen and planned, verdicts on made-up scores, a few real trials."""

import shutil

import pytest
import torch

from emo_ray.config import load, override
from emo_ray.experiments.claims import gap, gap_report, gap_trials, gap_world
from emo_ray.experiments.claims.gap_trials import FROZEN, LORA, MIDDLE, PROMPTS, GapTrial
from emo_ray.experiments.claims.trials import ZERO_SHOT
from emo_ray.training.mini_clip import FILES

CONFIG = load("mini", {"claims.worlds": 3, "claims.seeds": 2})


def planned():
    return gap_trials.planned_trials(CONFIG, dict.fromkeys(gap_trials.VARIANTS, 1e-3))


def made_up(gain):
    """Scores in which LoRA is above attention over frozen frames by `gain`, and worlds differ."""
    return {
        trial: {"test/V": 0.5 + 0.02 * trial.world + 0.001 * trial.seed + gain * (trial.variant == LORA)}
        for trial in planned()
    }


def test_the_rate_of_a_variant_is_the_best_on_validation():
    low, high = gap_trials.RATES
    tuned = {trial: {"validation/V": 0.5} for trial in gap_trials.tuning_trials(CONFIG)}
    tuned[GapTrial(LORA, MIDDLE, -1, 0, low)] = {"validation/V": 0.6}
    tuned[GapTrial(PROMPTS, MIDDLE, -1, 0, high)] = {"validation/V": 0.6}
    rate_of = gap_trials.best_rates(tuned)
    assert (rate_of[LORA], rate_of[PROMPTS]) == (low, high)
    assert rate_of.keys() == gap_trials.VARIANTS.keys()
    assert rate_of[f"{LORA}, augmented"] == low


def test_every_variant_is_measured_in_every_world_and_the_first_seed_comes_first():
    trials = planned()
    assert len(set(trials)) == len(trials)
    for name in (*gap_trials.UNTRAINED, *gap_trials.VARIANTS):
        at_middle = {(t.world, t.seed) for t in trials if t.variant == name and t.labelled == MIDDLE}
        assert at_middle == {(world, seed) for world in range(3) for seed in range(2)}
    for name in (*gap_trials.UNTRAINED, *gap_trials.TRAINED):
        assert {t.labelled for t in trials if t.variant == name and t.seed == 0} == set(gap_trials.COUNTS)
    assert [t.seed for t in trials] == sorted(t.seed for t in trials)


@pytest.mark.parametrize(("gain", "holds"), [(0.05, True), (0.0, False)])
def test_differences_are_paired_by_world(gain, holds):
    tuned = {trial: {"validation/V": 0.5} for trial in gap_trials.tuning_trials(CONFIG)}
    content = gap_report.report_of(CONFIG, tuned, made_up(gain), probe=0.7)
    difference = next(d for d in content["differences"] if d["what"] == f"{MIDDLE} labelled: {LORA} − {FROZEN}")
    assert difference["mean"] == pytest.approx(gain)
    assert difference["se"] == pytest.approx(0, abs=1e-9)
    assert difference["holds"] is holds
    table = content["tables"][0]
    assert table["columns"] == [str(count) for count in gap_trials.COUNTS]
    assert all(len(row["cells"]) == len(gap_trials.COUNTS) for row in table["rows"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Trials on the shipped mini CLIP, in worlds of few clips, for a single epoch."""
    root = tmp_path_factory.mktemp("gap")
    shutil.copy(FILES["safetensors"], root / gap_world.WEIGHTS)
    changes = {"emovclip.weights": str(root / gap_world.WEIGHTS), "media.frames": gap_world.FRAMES, "train.epochs": 1}
    return gap._Bench(root, override(CONFIG, changes), root)


@pytest.fixture
def few_clips(monkeypatch):
    monkeypatch.setattr(gap, "MIDDLE", 18)
    monkeypatch.setattr(gap, "VALIDATION", 6)
    monkeypatch.setattr(gap, "TEST", 6)
    monkeypatch.setattr(gap, "STEPS", 1)


@pytest.mark.usefixtures("few_clips")
def test_trials_have_scores_and_are_not_made_again(bench):
    trials = [
        GapTrial(ZERO_SHOT, 18, 0, 0),
        GapTrial(gap_trials.ALL_STATISTICS, 12, 0, 0),
        GapTrial(f"{LORA}, augmented", 12, 0, 0, 1e-3),
    ]
    scores = gap._all_scores(bench, trials, "testing")
    assert all(0 <= scores[trial][key] <= 1 for trial in trials for key in ("validation/V", "test/V"))
    written = {path: path.stat().st_mtime_ns for path in bench.root.rglob("*") if path.is_file()}
    assert gap._all_scores(bench, trials, "testing") == scores
    assert written == {path: path.stat().st_mtime_ns for path in bench.root.rglob("*") if path.is_file()}


def test_clips_of_a_world_are_filmed_once(bench):
    clips, again = (gap_world.clips_of(bench.root, 7, "train", 6, 64) for _ in range(2))
    assert clips.frames_BTCHW.dtype == torch.uint8
    assert clips.frames_BTCHW.shape == (6, gap_world.FRAMES, 3, 64, 64)
    assert torch.equal(clips.frames_BTCHW, again.frames_BTCHW)
    assert sorted(clips.label_B.tolist()) == list(range(6))


def test_what_decides_a_trial_names_it(bench):
    trials = [
        GapTrial(*row)
        for row in (
            (LORA, 60, 0, 0, 1e-3), (LORA, 200, 0, 0, 1e-3), (LORA, 60, 1, 0, 1e-3), (LORA, 60, 0, 1, 1e-3),
            (LORA, 60, 0, 0, 3e-3), (f"{LORA}, augmented", 60, 0, 0, 1e-3), (PROMPTS, 60, 0, 0, 1e-3),
            (ZERO_SHOT, 60, 0, 0),
        )
    ]  # fmt: skip
    assert len({gap._folder(bench, trial).name for trial in trials}) == len(trials)
