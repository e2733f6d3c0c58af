import copy
import re

import numpy as np
import pytest
from PIL import Image
from reading import terminal, visible

from emo_ray.reports import pseudo_labels

LABELS = ["neutral", "angry", "happy", "sad", "worried", "surprise"]


def example(labels=LABELS, seed=0, teachers=1):
    rng = np.random.default_rng(seed)

    def counts(most):
        return {label: int(rng.integers(0, most)) for label in labels}

    def bins():
        count = rng.integers(0, 90, 15)
        count[:4] = 0
        middles = (np.arange(15) + 0.5) / 15
        means = [None if not n else float(m) for n, m in zip(count, middles, strict=True)]
        right = [None if m is None else float(np.clip(m + rng.normal(scale=0.06), 0, 1)) for m in means]
        edges = np.linspace(0, 1, 16).tolist()
        return {"edges": edges, "count": count.tolist(), "confidence": means, "accuracy": right}

    def fit(name):
        pairs = [{"before": float(rng.uniform(0.1, 0.2)), "after": float(rng.uniform(0, 0.05))} for _ in range(2)]
        about = {"checkpoint": name, "digest": "0123456789abcdef", "temperature": 1.37, "n": 501}
        return about | {"ece": pairs[0], "nll": pairs[1], "reliability": {"before": bins(), "after": bins()}}

    edges = np.linspace(0, 1, 21)
    sure = {name: np.histogram(rng.beta(a, 2, 900), edges)[0].tolist() for name, a in (("accepted", 9), ("refused", 3))}
    return {
        "round": 2,
        "policy": "quantile",
        "labels": list(labels),
        "clips": 5210,
        "accepted": 2345,
        "broken_media": 17,
        "reasons": {"below threshold": 2500, "same content as a clip of test": 12},
        "thresholds": {label: float(rng.uniform(0.5, 1)) for label in labels},
        "classes": {"labelled": counts(200), "predicted": counts(900), "accepted": counts(500)},
        "drift": {label: {1: "starved", 3: "floods"}.get(i) for i, label in enumerate(labels)},
        "calibration": [fit(f"model-{i}") for i in range(teachers)],
        "confidence": {"edges": edges.tolist(), **sure},
        "notes": ["warning: 'sad' floods"],
    }


def printed(report):
    return terminal(pseudo_labels.tables(report), 150)


@pytest.mark.parametrize("teachers", [1, 3])
def test_the_numbers_are_on_the_page_and_in_the_terminal(tmp_path, teachers):
    report = example(teachers=teachers)
    page = visible(pseudo_labels.write(report, tmp_path).read_text(encoding="utf-8"))
    for text in (page, printed(report)):
        words = set(re.findall(r"\d+(?:\.\d+)?", text))
        for counts in report["classes"].values():
            total = sum(counts.values())
            assert {str(count) for count in counts.values()} <= words
            assert {f"{100 * count / total:.1f}" for count in counts.values()} <= words
        assert {f"{value:.3f}" for value in report["thresholds"].values()} <= words
        for fitted in report["calibration"]:
            assert {f"{100 * value:.1f}" for value in fitted["ece"].values()} | {"1.37", "501"} <= words
            assert fitted["checkpoint"] in text
        assert {"2345", "5210", "2500", "12"} <= words
        assert all(word in text for word in ("starved", "floods", "same content as a clip of test"))
    assert "broken media: 17" in page
    assert "warning: 'sad' floods" in page


def test_what_could_not_be_measured_is_a_dash(tmp_path):
    report = copy.deepcopy(example())
    fitted = report["calibration"][0]
    fitted["n"], fitted["temperature"] = 0, 1.0
    for key in ("ece", "nll"):
        fitted[key] = {"before": None, "after": None}
    for bins in fitted["reliability"].values():
        bins["count"] = [0] * 15
        bins["confidence"] = bins["accuracy"] = [None] * 15
    report["classes"]["labelled"] = dict.fromkeys(LABELS, 0)
    report["classes"]["accepted"] = dict.fromkeys(LABELS, 0)
    report["drift"], report["reasons"] = dict.fromkeys(LABELS), {}
    report["confidence"]["accepted"] = [0] * 20
    page = visible(pseudo_labels.write(report, tmp_path).read_text(encoding="utf-8"))
    assert "could not be calibrated" in page
    assert "–" in printed(report)
    assert "nan" not in page.lower()


def test_labels_are_no_markup(tmp_path):
    report = example(["<b>bold</b>", "[red]sad", "a very long label that no axis has room for"])
    assert "[red]sad" in printed(report)
    html = pseudo_labels.write(report, tmp_path).read_text(encoding="utf-8")
    assert "<b>bold" not in html
    assert "a very long label that no axis has room for" in visible(html)


def test_pictures_are_the_same_every_time(tmp_path):
    pseudo_labels.write(example(), tmp_path / "a")
    pseudo_labels.write(example(), tmp_path / "b")
    paths = sorted((tmp_path / "a").glob("*.png"))
    assert [path.name for path in paths] == ["classes.png", "confidence.png", "reliability.png"]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        with Image.open(path) as image:
            assert min(image.size) > 400


def test_a_class_that_drifts_is_a_warning():
    drift = [row[-1] for row in pseudo_labels.tables(example())[0].cells()]
    assert [cell.style for cell in drift] == ["", "warning", "", "warning", "", ""]
    assert [cell.text for cell in drift] == ["", "starved", "", "floods", "", ""]
