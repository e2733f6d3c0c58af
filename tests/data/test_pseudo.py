"""Pseudo-labels: accepted clips and no others, a digest of their content, and targets put into batches."""

import shutil

import numpy as np
import pytest
import torch

from emo_ray import store
from emo_ray.config.train_settings import Train
from emo_ray.data import pseudo
from emo_ray.data.batch import Batch
from emo_ray.data.targets import with_targets

LABELS = ("angry", "happy", "sad")
SOFT = {"u0": [0.7, 0.2, 0.1], "u1": [0.1, 0.3, 0.6], "u2": [0.2, 0.5, 0.3], "u3": [0.4, 0.3, 0.3]}
ACCEPTED = ("u0", "u1", "u2")


@pytest.fixture
def write_round(pseudo_round):
    """A function that writes a round of accepted and other clips; keyword arguments replace whole columns."""

    def write(folder, probabilities=None, **changes):
        return pseudo_round(folder, probabilities or SOFT, LABELS, ACCEPTED, **changes)

    return write


@pytest.fixture
def folder(write_round, tmp_path):
    return write_round(tmp_path / "round-2")


def test_the_accepted_clips_come_with_their_calibrated_probabilities(folder):
    labels = pseudo.read(folder, LABELS, Train(pseudo_weight=0.25))
    assert set(labels.target_of) == set(ACCEPTED)
    assert all(np.allclose(labels.target_of[clip_id], SOFT[clip_id]) for clip_id in ACCEPTED)
    assert labels.label_of == {"u0": 0, "u1": 2, "u2": 1}
    assert (labels.weight, labels.round, labels.teacher) == (0.25, 2, "model-a")
    assert labels.counts() == {"angry": 1, "happy": 1, "sad": 1}


def test_hard_targets_are_the_predicted_class_alone(folder):
    labels = pseudo.read(folder, LABELS, Train(pseudo_targets="hard"))
    assert labels.target_of["u1"].tolist() == [0, 0, 1]


def test_the_digest_is_of_what_decides_training_and_not_of_the_folder(folder, write_round, tmp_path):
    train = Train()
    same = [
        folder,
        shutil.copytree(folder, tmp_path / "elsewhere" / "round-9"),
        write_round(tmp_path / "b", SOFT | {"u3": [0.3, 0.4, 0.3]}),  # of a clip that is not accepted
        write_round(tmp_path / "c", dict(reversed(SOFT.items())), per_part=1),
    ]
    assert len({pseudo.read(path, LABELS, train).digest for path in same}) == 1
    other = write_round(tmp_path / "d", SOFT | {"u0": [0.69, 0.21, 0.1]})
    different = [
        pseudo.read(folder, LABELS, train),
        pseudo.read(other, LABELS, train),
        pseudo.read(folder, LABELS, Train(pseudo_weight=0.9)),
        pseudo.read(folder, LABELS, Train(pseudo_targets="hard")),
        pseudo.read(folder, LABELS, train).only(["u0", "u1"]),
    ]
    assert len({labels.digest for labels in different}) == 5


def test_pseudo_labels_can_be_restricted_to_some_clips(folder):
    labels = pseudo.read(folder, LABELS, Train())
    assert set(labels.only(["u2", "u3", "u0"]).target_of) == {"u0", "u2"}
    assert labels.only(["u3"]) is None


def test_a_batch_holds_the_target_and_weight_of_each_clip(folder):
    batch = Batch(
        clip_ids=("c0", "u1", "u0"),
        present_BM=torch.ones(3, 3, dtype=torch.bool),
        label_B=torch.tensor([1, 2, 0]),
    )
    soft = with_targets(batch, pseudo.read(folder, LABELS, Train(pseudo_weight=0.25)).targets)
    torch.testing.assert_close(soft.soft.target_BK, torch.tensor([[0.0, 1.0, 0.0], SOFT["u1"], SOFT["u0"]]))
    torch.testing.assert_close(soft.soft.weight_B, torch.tensor([1.0, 0.25, 0.25]))
    part = soft.rows(torch.tensor([2]))
    torch.testing.assert_close(part.soft.target_BK, torch.tensor([SOFT["u0"]]))
    assert with_targets(batch, None) is batch


def test_rounds_that_cannot_be_trained_on_are_refused(folder, write_round, tmp_path):
    train = Train()
    with pytest.raises(ValueError, match=r"meta\.json"):
        pseudo.read(tmp_path, LABELS, train)
    for labels in (("angry", "sad", "happy"), LABELS[:2]):
        with pytest.raises(ValueError, match=f"angry, happy, sad, .*{', '.join(labels)}"):
            pseudo.read(folder, labels, train)
    with pytest.raises(ValueError, match=r"'u0' accepted twice"):
        pseudo.read(write_round(tmp_path / "a", clip_id="u0", accepted=True), LABELS, train)
    for number, values in enumerate((None, [0.5, 0.5], [0.5, 0.5, 0.5])):
        with pytest.raises(ValueError, match="'u0', expected 3 "):
            pseudo.read(write_round(tmp_path / f"b{number}", calibrated=values), LABELS, train)
    with store.writing(tmp_path / "empty", {}):
        pass
    with pytest.raises(ValueError, match=r"empty: .*part-"):
        pseudo.read(tmp_path / "empty", LABELS, train)
