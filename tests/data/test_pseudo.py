"""Pseudo-labels: what is accepted and nothing else, known by its content, told to a batch clip by clip."""

import shutil

import numpy as np
import pytest
import torch

from emo_ray import store
from emo_ray.config.model_settings import Train
from emo_ray.data import pseudo
from emo_ray.data.batch import Batch

LABELS = ("angry", "happy", "sad")
SOFT = {"u0": [0.7, 0.2, 0.1], "u1": [0.1, 0.3, 0.6], "u2": [0.2, 0.5, 0.3], "u3": [0.4, 0.3, 0.3]}
ACCEPTED = ("u0", "u1", "u2")


@pytest.fixture
def write_round(pseudo_round):
    """A round of some clips, accepted and not; keyword arguments replace whole columns."""

    def write(folder, probabilities=None, **changes):
        return pseudo_round(folder, probabilities or SOFT, LABELS, ACCEPTED, **changes)

    return write


@pytest.fixture
def folder(write_round, tmp_path):
    return write_round(tmp_path / "round-2")


def test_the_accepted_clips_come_with_their_calibrated_probabilities(folder):
    found = pseudo.read(folder, LABELS, Train(pseudo_weight=0.25))
    assert set(found.target_of) == set(ACCEPTED)
    assert all(np.allclose(found.target_of[clip_id], SOFT[clip_id]) for clip_id in ACCEPTED)
    assert found.label_of == {"u0": 0, "u1": 2, "u2": 1}
    assert (found.weight, found.round, found.teacher) == (0.25, 2, "model-a")
    assert found.counts() == {"angry": 1, "happy": 1, "sad": 1}


def test_hard_targets_are_the_predicted_class_alone(folder):
    found = pseudo.read(folder, LABELS, Train(pseudo_targets="hard"))
    assert found.target_of["u1"].tolist() == [0, 0, 1]


def test_they_are_known_by_what_they_decide_and_not_by_their_folder(folder, write_round, tmp_path):
    own = Train()
    same = [
        folder,
        shutil.copytree(folder, tmp_path / "elsewhere" / "round-9"),
        write_round(tmp_path / "b", SOFT | {"u3": [0.3, 0.4, 0.3]}),  # of a clip that is not accepted
        write_round(tmp_path / "c", dict(reversed(SOFT.items())), per_part=1),
    ]
    assert len({pseudo.read(path, LABELS, own).digest for path in same}) == 1
    other = write_round(tmp_path / "d", SOFT | {"u0": [0.69, 0.21, 0.1]})
    different = [
        pseudo.read(folder, LABELS, own),
        pseudo.read(other, LABELS, own),
        pseudo.read(folder, LABELS, Train(pseudo_weight=0.9)),
        pseudo.read(folder, LABELS, Train(pseudo_targets="hard")),
        pseudo.read(folder, LABELS, own).only(["u0", "u1"]),
    ]
    assert len({found.digest for found in different}) == 5


def test_some_of_them_can_be_taken(folder):
    found = pseudo.read(folder, LABELS, Train())
    assert set(found.only(["u2", "u3", "u0"]).target_of) == {"u0", "u2"}
    assert found.only(["u3"]) is None


def test_a_batch_is_told_what_to_train_each_clip_towards(folder):
    batch = Batch(
        clip_ids=("c0", "u1", "u0"),
        present_BM=torch.ones(3, 3, dtype=torch.bool),
        label_B=torch.tensor([1, 2, 0]),
    )
    found = pseudo.with_targets(batch, pseudo.read(folder, LABELS, Train(pseudo_weight=0.25)))
    torch.testing.assert_close(found.soft.target_BK, torch.tensor([[0.0, 1.0, 0.0], SOFT["u1"], SOFT["u0"]]))
    torch.testing.assert_close(found.soft.weight_B, torch.tensor([1.0, 0.25, 0.25]))
    part = found.rows(torch.tensor([2]))
    torch.testing.assert_close(part.soft.target_BK, torch.tensor([SOFT["u0"]]))
    assert pseudo.with_targets(batch, None) is batch


def test_what_cannot_be_trained_on_is_refused(folder, write_round, tmp_path):
    own = Train()
    with pytest.raises(ValueError, match=r"found no meta\.json"):
        pseudo.read(tmp_path, LABELS, own)
    for labels in (("angry", "sad", "happy"), LABELS[:2]):
        with pytest.raises(ValueError, match="found pseudo-labels of the classes angry, happy, sad, expected"):
            pseudo.read(folder, labels, own)
    with pytest.raises(ValueError, match="accepted twice"):
        pseudo.read(write_round(tmp_path / "a", clip_id="u0", accepted=True), LABELS, own)
    for number, values in enumerate((None, [0.5, 0.5], [0.5, 0.5, 0.5])):
        with pytest.raises(ValueError, match="expected 3 probabilities"):
            pseudo.read(write_round(tmp_path / f"b{number}", calibrated=values), LABELS, own)
    with store.writing(tmp_path / "empty", {}):
        pass
    with pytest.raises(ValueError, match="no part-"):
        pseudo.read(tmp_path / "empty", LABELS, own)
