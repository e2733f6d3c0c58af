"""Classical heads as tensors: they say what scikit-learn says, for any set of modalities, and come back from a file."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from emo_ray.config import load, override
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.models.classical_head import NEVER, from_state
from emo_ray.models.trainable_state import trained_state
from emo_ray.training import classical_heads, floors
from emo_ray.training.metrics import metrics
from emo_ray.training.scoring import shown_only
from emo_ray.training.selection import choose

CONFIG = {kind: override(load("mini"), {"fusion.kind": kind}) for kind in ("linear", "svm")}
WIDTHS = {"audio": 5, "text": 90}


def clips(count, seed=0, classes=4, shift=1.5):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % classes
    features = {
        name: torch.randn(count, width, generator=generator) + shift * torch.eye(classes, width)[label]
        for name, width in WIDTHS.items()
    }
    present = torch.ones(count, 3, dtype=torch.bool)
    present[:, 0] = False
    present[::4, 2] = present[1::5, 1] = False
    ids = tuple(f"{seed}-{i}" for i in range(count))
    return FeatureBatch(clip_ids=ids, present_BM=present, label_B=label, features=features)


def scaled(head, batch, names):
    rows = batch.present_BM[:, [MODALITIES.index(name) for name in names]].all(dim=1)
    parts = [
        head.standardise(batch.features[name], name, batch.present_BM[:, MODALITIES.index(name)]) for name in names
    ]
    return torch.cat(parts, dim=1)[rows].double().numpy(), batch.label_B[rows].numpy(), rows


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("width", [4, 60])
def test_a_kernel_head_decides_as_scikit_learn_does(classes, width):
    rng = np.random.default_rng(classes)
    label_B = np.arange(50) % classes + 1  # the first of the corpus' classes has no clip
    features_BD = (rng.normal(size=(50, width)) + np.eye(classes + 1, width)[label_B]).astype(np.float32)
    asked_BD = rng.normal(size=(200, width)).astype(np.float32)
    model = SVC(C=10.0, gamma=1 / width, break_ties=True).fit(features_BD, label_B)
    classifier = classical_heads.kernel(model, features_BD, classes + 2)
    decision = classifier.decision(torch.from_numpy(asked_BD)).numpy()
    expected = model.decision_function(asked_BD)
    if classes == 2:  # scikit-learn gives one number, the clarity of the second class, of which ours are made
        vote_B, clear_B = (expected > 0).astype(float), expected / (3 * (abs(expected) + 1))
        expected = np.stack([1 - vote_B - clear_B, vote_B + clear_B], axis=1)
    np.testing.assert_allclose(decision, expected, atol=1e-5)
    logits_BK = classifier(torch.from_numpy(asked_BD)).numpy()
    assert (logits_BK[:, [0, classes + 1]] == NEVER).all()
    assert (logits_BK.argmax(axis=1) == model.predict(asked_BD)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_head_has_scikit_learns_probabilities(classes):
    rng = np.random.default_rng(classes)
    label_B = np.arange(60) % classes
    features_BD = rng.normal(size=(60, 5)) + np.eye(classes, 5)[label_B]
    model = LogisticRegression(C=0.1).fit(features_BD, label_B)
    logits_BK = classical_heads.linear(model, None, classes + 1)(torch.from_numpy(features_BD).float())
    np.testing.assert_allclose(logits_BK.softmax(dim=1)[:, :classes], model.predict_proba(features_BD), atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_each_subset_has_the_classifier_of_its_features(kind, monkeypatch):
    """More features than clips too, where the axes that the clips span stand for them while it is fitted."""
    monkeypatch.setattr(floors, "_STRENGTHS", {floors.LOGISTIC: (0.1,), floors.SVM: (1.0,)})
    train, tested = clips(80, 1), clips(60, 2)
    head = classical_heads.fit(train, CONFIG[kind], 4, train.clip_ids)
    assert set(head.classifiers) == {"A", "T", "AT"}
    assert set(head.project) == {"audio", "text"}
    for subset in ("A", "T", "AT"):
        shown_BD, label_B, _ = scaled(head, train, SUBSETS[subset])
        asked_BD, _, rows = scaled(head, tested, SUBSETS[subset])
        width = shown_BD.shape[1]
        model = LogisticRegression(C=0.1, max_iter=2000, tol=1e-3) if kind == "linear" else SVC(C=1.0, gamma=1 / width)
        expected = model.fit(shown_BD, label_B).predict(asked_BD)
        answers = shown_only(head, tested, SUBSETS[subset])[rows.numpy()].argmax(axis=1)
        assert (answers == expected).mean() >= 0.95  # of equal votes ours go to the clearer class


def test_a_clip_goes_to_the_classifier_of_what_it_has():
    train = clips(80, 1)
    head = classical_heads.fit(train, CONFIG["svm"], 4, train.clip_ids)
    everything, audio, nothing = (shown_only(head, train, names) for names in (MODALITIES, ("audio",), ("video",)))
    only_audio = (train.present_BM[:, 1] & ~train.present_BM[:, 2]).numpy()
    assert (everything[only_audio] == audio[only_audio]).all()
    assert not np.allclose(everything[~only_audio], audio[~only_audio])
    np.testing.assert_allclose(nothing, 0.25, atol=1e-6)


def test_modalities_that_no_training_clip_had_together_leave_the_largest_part():
    train = clips(80, 1)
    train.present_BM[:, 1:] = torch.eye(2, dtype=torch.bool).repeat(40, 1)[torch.randperm(80)]
    head = classical_heads.fit(train, CONFIG["linear"], 4, train.clip_ids)
    assert set(head.classifiers) == {"A", "T"}
    both = clips(10, 2)
    both.present_BM[:, 1:] = True
    answers = shown_only(head, both, MODALITIES)
    assert (answers == shown_only(head, both, ("audio",))).all()


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_a_head_comes_back_from_its_tensors(kind):
    train = clips(80, 1)
    head = classical_heads.fit(train, CONFIG[kind], 4, train.clip_ids)
    state = trained_state(head)
    scaling = {name: state[f"scaling_{name}"] for name in WIDTHS}
    assert torch.equal(from_state(state, scaling)(train).logits_BK, head(train).logits_BK)
    for name, tensor in state.items():
        if name.startswith("scaling_"):
            continue
        without = {key: value for key, value in state.items() if key != name}
        for wrong in (without, without | {name + "s": tensor}, without | {name: tensor[None]}):
            with pytest.raises(ValueError, match=r"fusion\.kind"):
                from_state(wrong, scaling)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_inner_folds_judge_a_classical_head_as_they_do_a_network(kind):
    batch = clips(90, 3)
    choice = choose(batch, CONFIG[kind], "abcd", False, batch.clip_ids)
    assert choice.config == CONFIG[kind]
    assert kind in choice.note
    assert choice.metrics["val_n"] == 90
    out_of_fold = choice.out_of_fold
    value = metrics(out_of_fold.probability_BK, out_of_fold.label_B)
    assert choice.metrics["val_waf"] == pytest.approx(value["waf"])
    assert value["accuracy"] > 0.5
    with pytest.raises(ValueError, match="groups"):
        choose(batch, CONFIG[kind], "abcd", False, [str(i % (INNER_FOLDS - 1)) for i in range(90)])
