"""compare: two reports' predictions of the same clips, to what can be concluded; no Ray is needed."""

import json

import numpy as np
import pyarrow as pa
import pytest
from reading import visible
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from emo_ray import durable, parquet
from emo_ray.config import Config, override
from emo_ray.reports.comparison import PAGE
from emo_ray.reports.scorecard import PREDICTIONS, REPORT
from emo_ray.stages.evaluate import evaluate

LABELS = ["calm", "glad", "upset"]
CLIPS = 240


def predictions(folder, skill, labels=LABELS, seed=0, first=0):
    """A report of a model that is right as often as `skill` says, with one clip without any modality."""
    rng = np.random.default_rng(seed)
    truth = np.arange(CLIPS) % 3
    guess = np.where(rng.random(CLIPS) < skill, truth, (truth + 1) % 3)
    order = [labels.index(label) for label in LABELS]  # class index in the model's own order
    rows = np.eye(3)[[order[k] for k in guess]]
    columns = {
        "clip_id": [f"c{first + i}" for i in range(CLIPS)],
        "label": [LABELS[k] for k in truth],
        "speaker": [f"s{i // 12}" for i in range(CLIPS)],
        "has_audio": [i > 0 for i in range(CLIPS)],
        "p_VAT": rows.tolist(),
    }
    table = pa.table(columns).replace_schema_metadata({"labels": json.dumps(labels)})
    folder.mkdir()
    parquet.write(folder / PREDICTIONS, table, rows_per_group=100)
    durable.write_text(folder / REPORT, json.dumps({"checkpoint": f"model-{folder.name}"}))
    return truth[1:], guess[1:]


def compared(tmp_path, *names):
    folders = [str(tmp_path / name) for name in names]
    return evaluate(override(Config(), {"evaluate.compare": folders, "store.root": str(tmp_path / "store")}))


@pytest.fixture
def reports(tmp_path):
    truth, weak = predictions(tmp_path / "weak", 0.6)
    _, strong = predictions(tmp_path / "strong", 0.8, ["upset", "glad", "calm"], seed=1)
    return truth, weak, strong


def test_scores_and_tests_are_those_of_scikit_learn_and_scipy(reports, tmp_path):
    truth, weak, strong = reports
    result = compared(tmp_path, "weak", "strong")
    content = result.content
    assert content["n"] == CLIPS - 1
    for name, score in (("accuracy", accuracy_score), ("waf", lambda *x: f1_score(*x, average="weighted"))):
        assert content["scores"][name]["first"] == pytest.approx(score(truth, weak))
        assert content["scores"][name]["second"] == pytest.approx(score(truth, strong))
    only = [int(((a == truth) & (b != truth)).sum()) for a, b in ((weak, strong), (strong, weak))]
    assert [content["right"]["only_first"], content["right"]["only_second"]] == only
    assert content["mcnemar_p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert sum(content["right"].values()) == content["n"]
    low, high = content["scores"]["waf"]["interval"]
    assert 0 < low < content["scores"]["waf"]["difference"] < high
    assert "model-strong is better than model-weak" in result.lines[0]
    page = visible((result.path / PAGE).read_text())
    assert all(words in page for words in ("model-weak", "20 speakers", "McNemar"))


def test_the_other_way_round_signs_change_and_equals_are_not_told_apart(reports, tmp_path):
    there, back = compared(tmp_path, "weak", "strong").content, compared(tmp_path, "strong", "weak").content
    assert back["mcnemar_p"] == there["mcnemar_p"]
    for name, lead in there["scores"].items():
        assert back["scores"][name]["interval"] == pytest.approx([-end for end in reversed(lead["interval"])])
    predictions(tmp_path / "twin", 0.6, seed=5)
    assert "Neither is seen to be better" in compared(tmp_path, "weak", "twin").lines[0]
    predictions(tmp_path / "same", 0.6)
    same = compared(tmp_path, "weak", "same").content
    assert same["mcnemar_p"] == 1
    assert same["scores"]["waf"]["interval"] == [0, 0]


def test_only_the_same_clips_classes_and_labels_are_compared(reports, tmp_path):
    predictions(tmp_path / "elsewhere", 0.6, first=1000)
    with pytest.raises(ValueError, match=r"evaluate\.compare.*no clip in common"):
        compared(tmp_path, "weak", "elsewhere")
    predictions(tmp_path / "shifted", 0.6, first=1)
    with pytest.raises(ValueError, match=r"other labels of"):
        compared(tmp_path, "weak", "shifted")
    predictions(tmp_path / "half", 0.6, first=120)
    assert compared(tmp_path, "weak", "half").content["left_out"] == 2 * 120
    with pytest.raises(ValueError, match=r"evaluate\.compare"):
        override(Config(), {"evaluate.compare": [str(tmp_path / "weak")]})
