"""Intervals by bootstrap: equal to scipy's on the same clips, as wide as speakers ask, and quick."""

import time

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, recall_score

from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.training.bootstrap import (
    RESAMPLES,
    difference_intervals,
    interval,
    resampled,
    score_intervals,
    speaker_groups,
)
from emo_ray.training.metrics import of_counts
from emo_ray.training.scoring import objective_interval

CLASSES = 4


def clips(count=160, speakers=12, seed=0):
    """Labels, two models' classes of which the first is the better, and speakers, some of whom are hard."""
    rng = np.random.default_rng(seed)
    label_B, speaker_B = rng.integers(CLASSES, size=count), rng.integers(speakers, size=count)
    hard_S = rng.random(speakers)
    right_2B = rng.random((2, count)) > np.array([[0.5], [0.9]]) * hard_S[speaker_B]
    guess_2B = np.where(right_2B, label_B, rng.integers(CLASSES, size=(2, count)))
    return label_B, guess_2B, speaker_B


def plain_score(name, label_B, guess_B):
    occurring = np.unique(label_B)
    return {
        "accuracy": lambda: accuracy_score(label_B, guess_B),
        "waf": lambda: f1_score(label_B, guess_B, average="weighted", zero_division=0),
        "uar": lambda: recall_score(label_B, guess_B, average="macro", labels=occurring, zero_division=0),
        "macro_f1": lambda: f1_score(label_B, guess_B, average="macro", labels=occurring, zero_division=0),
    }[name]()


@pytest.mark.parametrize("name", ["accuracy", "waf"])
def test_intervals_over_clips_are_those_of_scipy(name):
    label_B, guess_2B, _ = clips()
    expected = stats.bootstrap(
        (np.arange(len(label_B)),),
        lambda rows: plain_score(name, label_B[rows], guess_2B[0][rows]),
        n_resamples=400,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = score_intervals(guess_2B[0], label_B, CLASSES, None, 0)
    assert ours[name] == pytest.approx([*expected], abs=0.03)


def test_intervals_over_speakers_are_those_of_scipy():
    label_B, guess_2B, speaker_B = clips()
    rows_of = [np.flatnonzero(speaker_B == speaker) for speaker in np.unique(speaker_B)]

    def lead(drawn):
        rows = np.concatenate([rows_of[i] for i in drawn])
        first, second = (plain_score("waf", label_B[rows], guess_B[rows]) for guess_B in guess_2B)
        return first - second

    expected = stats.bootstrap(
        (np.arange(len(rows_of)),), lead, n_resamples=400, vectorized=False, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    group_B = np.unique(speaker_B, return_inverse=True)[1]
    ours = difference_intervals(guess_2B, label_B, CLASSES, group_B, 0)
    assert ours["waf"] == pytest.approx([*expected], abs=0.03)


@pytest.mark.parametrize("by_speaker", [False, True])
def test_each_resample_has_the_scores_of_its_table_by_scikit_learn(by_speaker):
    label_B, guess_2B, speaker_B = clips(60, 6)
    counts_RXKK = resampled(guess_2B, label_B, CLASSES, speaker_B if by_speaker else None, 0)
    assert counts_RXKK.shape == (RESAMPLES, 2, CLASSES, CLASSES)
    assert np.array_equal(counts_RXKK[:, 0].sum(axis=2), counts_RXKK[:, 1].sum(axis=2))  # the same clips for both
    table_KK = counts_RXKK[7, 1].astype(int)
    truth, guess = (np.repeat(axis.ravel(), table_KK.ravel()) for axis in np.indices(table_KK.shape))
    for name, values_RX in of_counts(counts_RXKK).items():
        assert values_RX[7, 1] == pytest.approx(plain_score(name, truth, guess))


def test_speakers_that_are_right_and_wrong_together_widen_the_interval():
    label_B = np.arange(400) % CLASSES
    speaker_B = np.arange(400) // 40
    guess_B = np.where(speaker_B < 6, label_B, (label_B + 1) % CLASSES)
    widths = [
        np.ptp(score_intervals(guess_B, label_B, CLASSES, group_B, 0)["accuracy"]) for group_B in (speaker_B, None)
    ]
    assert widths[0] > 3 * widths[1]


def test_few_speakers_are_no_groups_and_unknown_ones_are_clips():
    assert speaker_groups(["a", "b", "c", "d"] * 9) is None
    assert speaker_groups([None] * 40) is None
    groups = speaker_groups([*"abcdea", None, None])
    assert groups[0] == groups[5]
    assert len(set(groups.tolist())) == 7


def test_the_same_seed_draws_the_same_and_a_sure_thing_has_no_width():
    label_B, guess_2B, speaker_B = clips()
    first, second = (resampled(guess_2B, label_B, CLASSES, speaker_B, 3) for _ in range(2))
    assert np.array_equal(first, second)
    assert interval(np.ones(RESAMPLES)) == [1.0, 1.0]
    assert score_intervals(label_B, label_B, CLASSES, None, 0)["waf"] == [1.0, 1.0]
    with pytest.raises(ValueError, match="no labelled clips"):
        resampled(np.zeros((1, 0), int), np.zeros(0, int), CLASSES, None, 0)


def test_ten_thousand_clips_take_about_a_second():
    rng = np.random.default_rng(0)
    label_B, guess_B = rng.integers(7, size=(2, 10_000))
    start_s = time.process_time()
    score_intervals(guess_B, label_B, 7, rng.integers(1500, size=10_000), 0)
    score_intervals(guess_B, label_B, 7, None, 0)
    assert time.process_time() - start_s < 5  # about one where nothing else runs


def shown_clips(absent_share):
    """A batch of clips of which some lack a modality, their speakers, and what a model says of each subset."""
    label_B, _, speaker_B = clips(240, 12)
    rng = np.random.default_rng(5)
    present_BM = rng.random((len(label_B), 3)) >= absent_share
    probabilities = {name: rng.dirichlet(np.ones(CLASSES) / 2, len(label_B)).astype("f4") for name in SUBSETS}
    batch = FeatureBatch(
        clip_ids=tuple(map(str, range(len(label_B)))),
        present_BM=torch.from_numpy(present_BM),
        label_B=torch.from_numpy(label_B),
        features={name: torch.zeros(len(label_B), 1) for name in MODALITIES},
    )
    return batch, probabilities, [f"s{speaker}" for speaker in speaker_B]


@pytest.mark.parametrize("absent_share", [0.0, 0.4])
def test_the_interval_of_an_objective_is_that_of_its_subset(absent_share):
    batch, probabilities, speakers = shown_clips(absent_share)
    rows = batch.places_with(["video", "audio"])
    groups = speaker_groups([speakers[row] for row in rows])
    guess_B, label_B = probabilities["VA"].argmax(axis=1)[rows], batch.label_B.numpy()[rows]
    expected = score_intervals(guess_B, label_B, CLASSES, groups, 3)["uar"]
    shown = objective_interval(batch, probabilities, "VA/uar", speakers, 3)
    assert shown == {"ends": pytest.approx(expected), "drawn": "speakers"}
    everything = objective_interval(batch, probabilities, "available/waf", [None] * len(batch), 3)
    assert everything["drawn"] == "clips"


def test_the_interval_of_a_mean_draws_the_same_speakers_for_all_subsets():
    batch, probabilities, speakers = shown_clips(0.3)
    rows_of = {name: batch.places_with(names) for name, names in SUBSETS.items()}
    rng, label_B = np.random.default_rng(1), batch.label_B.numpy()
    names, speaker_B = np.unique(speakers), np.array(speakers)
    means = []
    for _ in range(400):
        times_B = np.bincount(np.searchsorted(names, rng.choice(names, len(names))), minlength=len(names))[
            np.searchsorted(names, speaker_B)
        ]
        drawn = {name: np.repeat(rows, times_B[rows]) for name, rows in rows_of.items()}
        right = [(probabilities[n].argmax(axis=1)[rows] == label_B[rows]).mean() for n, rows in drawn.items()]
        means.append(np.mean(right))
    shown = objective_interval(batch, probabilities, "mean/accuracy", speakers, 0)
    assert shown["ends"] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.01)
