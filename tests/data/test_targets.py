"""Votes as soft targets, against torch's cross entropy with probabilities and scipy's entropy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy

from emo_ray.data.batch import Batch, Output
from emo_ray.data.manifest import Clip
from emo_ray.data.targets import of_votes, with_targets
from emo_ray.training.loss import loss

LABELS = ("angry", "happy", "sad")
CLIPS = [
    Clip("a", label="happy", votes=(("happy", 3.0), ("sad", 1.0))),
    Clip("b", label="angry", votes=(("angry", 5.0), ("other", 2.0))),  # of which no class is made
    Clip("c", label="sad"),
    Clip("d", label="sad", votes=(("angry", 1.0), ("happy", 1.0), ("sad", 1.0))),
    Clip("e", label="sad", votes=(("other", 1.0),)),
]
SHARES = torch.tensor([[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])
BATCH = Batch(
    clip_ids=tuple("abcde"), present_BM=torch.ones(5, 3, dtype=torch.bool), label_B=torch.tensor([1, 0, 2, 2, 2])
)


def test_the_loss_towards_votes_is_torchs_towards_their_shares():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    batch = with_targets(BATCH, of_votes(CLIPS, LABELS))
    actual = loss(Output(logits, logits), batch)["cross_entropy"]
    torch.testing.assert_close(actual, F.cross_entropy(logits, SHARES))


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_clip_counts_less_the_more_its_annotators_differ(weight):
    targets = of_votes(CLIPS, LABELS, weight)
    expected = 1 - weight * entropy(SHARES.numpy(), base=3, axis=1)
    np.testing.assert_allclose(targets.weights("abcde").numpy(), expected, atol=1e-6)


def test_targets_have_a_digest_of_their_content():
    targets = of_votes(CLIPS, LABELS)
    assert targets.digest == of_votes(CLIPS[::-1], LABELS).digest
    others = [of_votes(CLIPS, LABELS, 0.5), targets.only(["a"]), of_votes(CLIPS, ("angry", "sad", "happy"))]
    assert len({targets.digest, *(other.digest for other in others)}) == 4
    assert targets.only(["c"]) is None
    assert of_votes(CLIPS[2:3], LABELS) is None


def test_of_two_targets_of_a_clip_the_later_ones_hold():
    first, second = of_votes(CLIPS[:2], LABELS), of_votes([Clip("a", votes=(("sad", 1.0),))], LABELS, 1.0)
    both = first | second
    assert both.target_of["a"].tolist() == [0, 0, 1]
    assert both.target_of["b"].tolist() == [1, 0, 0]
