"""Settings from inner folds: chosen without the clips left out, by the objective, and the same each time."""

import numpy as np
import pytest
import torch

from emo_ray.config import load, override
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.models.head_average import HeadAverage
from emo_ray.training.in_memory import fit_head
from emo_ray.training.metrics import metrics
from emo_ray.training.scoring import shown_only
from emo_ray.training.selection import candidates, choose, curves, fit_average

CONFIG = load("mini", {"train.epochs": 3, "fusion.hidden": 8, "train.heads": 2, "fusion.passes_per_epoch": 2})


def clips(count=90, speakers=9, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 3
    audio = noise * torch.randn(count, 6, generator=generator) + 2 * torch.eye(3, 6)[label]
    return FeatureBatch(
        clip_ids=tuple(f"c{i}" for i in range(count)),
        present_BM=torch.tensor([False, True, False]).expand(count, -1),
        label_B=label,
        features={"audio": audio},
        speakers=tuple(f"s{i % speakers}" for i in range(count)) if speakers else None,
    )


def batch_groups():
    return clips().speakers


def recorded(folds_seen):
    def run(function, folds):
        folds_seen.extend(folds)
        return [function(*fold) for fold in folds]

    return run


def test_every_clip_is_left_out_once_and_with_its_speaker():
    folds = []
    choose(clips(), CONFIG, "abc", True, batch_groups(), run=recorded(folds))
    assert len(folds) == INNER_FOLDS
    assert sorted(i for (fold,), *_ in folds for i in fold.validation.clip_ids) == sorted(clips().clip_ids)
    for (fold,), *_ in folds:
        assert not set(fold.train.speakers) & set(fold.validation.speakers)
        assert not set(fold.train.clip_ids) & set(fold.validation.clip_ids)


def test_the_choice_has_the_most_of_the_objective_and_then_the_least_loss():
    folds = []
    choice = choose(clips(noise=3.0), CONFIG, "abc", True, batch_groups(), run=recorded(folds))
    of_folds = [curves(*fold)[0] for fold in folds]
    best = None
    for c, candidate in enumerate(candidates(CONFIG, searches=True)):
        for epoch in range(CONFIG.train.epochs):
            counts_KK = sum(of_fold[c][epoch][0][0] for of_fold in of_folds)
            guess, truth = [], []
            for row, column in np.ndindex(counts_KK.shape):
                truth += [row] * int(counts_KK[row, column])
                guess += [column] * int(counts_KK[row, column])
            waf = metrics(np.eye(3)[guess], np.array(truth))["waf"]
            loss = sum(of_fold[c][epoch][1] for of_fold in of_folds) / 90
            score = (round(waf, 9), -loss)
            if best is None or score > best[0]:
                best = score, candidate, epoch + 1
    assert (choice.config.fusion, choice.epochs) == best[1:]
    assert choice.metrics["val_waf"] == pytest.approx(best[0][0])
    assert choice.metrics["val_loss"] == pytest.approx(-best[0][1])


def test_out_of_fold_probabilities_are_those_of_the_head_that_has_not_seen_the_clip():
    folds, batch = [], clips(noise=3.0)
    choice = choose(batch, CONFIG, "abc", True, batch_groups(), run=recorded(folds))
    out_of_fold = choice.out_of_fold
    assert out_of_fold.clip_ids == batch.clip_ids
    assert out_of_fold.label_B.tolist() == batch.label_B.tolist()
    chosen_config = override(choice.config, {"train.heads": 1})
    for (fold,), *_ in folds:
        train, tested = fold.train, fold.validation
        head = fit_average(train, chosen_config, "abc", choice.epochs)
        rows = [batch.clip_ids.index(name) for name in tested.clip_ids]
        expected_BK = shown_only(head, tested, ("video", "audio", "text"))
        np.testing.assert_allclose(out_of_fold.probability_BK[rows], expected_BK, atol=1e-5)
    right_B = out_of_fold.probability_BK.argmax(axis=1) == out_of_fold.label_B
    assert right_B.mean() == pytest.approx(choice.metrics["val_accuracy"])


def test_without_a_search_the_settings_stay():
    choice = choose(clips(), CONFIG, "abc", False, batch_groups())
    assert choice.config == CONFIG
    assert 1 <= choice.epochs <= 3
    assert choice == choose(clips(), CONFIG, "abc", False, batch_groups())
    assert str(choice.epochs) in choice.note


def test_a_choice_learns_nothing_from_noise_that_it_reports_as_skill():
    noise = clips(noise=1.0, count=60, speakers=0)
    shuffled = FeatureBatch(
        **{**vars(noise), "label_B": noise.label_B[torch.randperm(60, generator=torch.Generator())]}
    )
    choice = choose(shuffled, CONFIG, "abc", False, shuffled.clip_ids)
    assert choice.metrics["val_n"] == 60
    assert choice.metrics["val_accuracy"] < 0.6


def test_too_few_speakers_to_fold_is_an_error():
    with pytest.raises(ValueError, match=r"train\.refit.*data\.columns\.speaker"):
        choose(clips(), CONFIG, "abc", False, [str(i % 2) for i in range(90)])


def test_training_that_diverges_is_an_error():
    with pytest.raises(ValueError, match=r"fusion\.lr"):
        choose(
            clips(), override(CONFIG, {"fusion.lr": 1e30, "fusion.grad_clip_norm": 1e30}), "abc", False, batch_groups()
        )


def test_an_average_is_of_heads_that_the_loop_trains_alone():
    train, config = clips(), override(CONFIG, {"train.epochs": 2})
    average = fit_average(train, config, "abc")
    assert isinstance(average, HeadAverage)
    for number, head in enumerate(average.heads):
        alone = fit_head(train, None, override(config, {"seed": config.seed + number}), 3)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(head.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_fewer_epochs_are_the_start_of_the_same_training():
    train = clips()
    one, all_epochs = (shown_only(fit_average(train, CONFIG, "abc", epochs), train, ("audio",)) for epochs in (1, None))
    assert not np.allclose(one, all_epochs)
    accuracy = [(values.argmax(axis=1) == train.label_B.numpy()).mean() for values in (one, all_epochs)]
    assert accuracy[1] > 0.5
