import copy
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from reading import embedded, loaded, terminal, texts, visible

from emo_ray.reports import evaluation
from emo_ray.reports.wording import AVAILABLE, SCORES, SUBSET_NAMES

LABELS = ["neutral", "angry", "happy", "sad", "worried", "surprise"]


def example(labels=LABELS, seed=0):
    """A report in which every number is written differently from all others."""
    rng = np.random.default_rng(seed)
    tenths_of_percent = itertools.cycle(rng.permutation(np.arange(101, 999)))
    counts = itertools.cycle(rng.permutation(np.arange(1001, 9999)))

    def rate():
        return int(next(tenths_of_percent)) / 1000

    def count():
        return int(next(counts))

    def scores():
        return {"waf": rate(), "accuracy": rate(), "uar": rate(), "macro_f1": rate(), "n": count(), "classes": 6}

    def interval():
        return sorted([rate(), rate()])

    bins = {"edges": [0, 0.5, 1], "count": [0, 9], "confidence": [None, 0.8], "accuracy": [None, 0.7]}
    return {
        "subsets": {key: scores() for key in SUBSET_NAMES},
        "available": scores(),
        "intervals": {key: {score: interval() for score in SCORES} for key in (*SUBSET_NAMES, "available")},
        "drawn": "speakers",
        "fusion": None,
        "speakers": {f"person {i}": {"waf": i / 8, "n": 5 + i} for i in range(7)},
        "confusions": {key: rng.integers(99, size=(len(labels), len(labels))).tolist() for key in "VAT"},
        "calibration": {
            "temperature": 1.5,
            "fitted_on": "30 clips (validation)",
            "n": 9,
            "ece": {"before": 0.1, "after": 0.05},
            "nll": {"before": 0.9, "after": 0.8},
            "reliability": {"before": bins, "after": bins},
        },
        "balance": {"train": dict.fromkeys(labels, 7), "test": dict.fromkeys(labels, 3)},
        "per_class_precision": {label: rate() for label in labels},
        "per_class_recall": {label: rate() for label in labels},
        "per_class_f1": {label: rate() for label in labels},
        "per_class_n": {label: count() for label in labels},
        "confusion": [[count() for _ in labels] for _ in labels],
        "split": "test",
        "labels": list(labels),
        "chance": {"uniform_accuracy": rate(), "majority_accuracy": rate(), "majority_waf": rate()},
        "checkpoint": "0123456789abcdef",
        "n_clips": count(),
        "notes": ["3 clips could not be decoded."],
        "histories": {"fusion": [{"epoch": i, "train_loss": 1 / (1 + i), "val_waf": 0.5} for i in range(3)]},
    }


PICTURES = ("subsets", "confusion", "confusions", "reliability", "speakers", "balance", "learning")
OF_CLASSES = ("subsets", "confusion", "confusions", "balance")
TABLES = ("subsets", "available", "per_class_precision", "per_class_recall", "per_class_f1", "per_class_n", "confusion")


def numbers(tree):
    """All numbers of a report, as they are to be read."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [text for branch in tree for text in numbers(branch)]
    if isinstance(tree, float):
        return [f"{100 * tree:.1f}"]
    return [str(tree)] if isinstance(tree, int) else []


def plain(report):
    """The same report with two pictures, for tests of words: each picture takes a tenth of a second to draw."""
    nothing = {"confusions": {}, "speakers": {}, "balance": {}, "histories": {}}
    return report | nothing | {"calibration": report["calibration"] | {"n": 0}}


def of_classes(report):
    """The same report with the pictures that show classes, `OF_CLASSES`."""
    return report | {"speakers": {}, "histories": {}, "calibration": report["calibration"] | {"n": 0}}


def page(report, folder):
    return evaluation.write(report, folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the example's page."""
    folder = tmp_path_factory.mktemp("example")
    evaluation.write(example(), folder)
    return folder


@pytest.fixture(scope="module")
def html(folder):
    """The example's page; each page takes most of a second to draw."""
    return (folder / "report.html").read_text(encoding="utf-8")


def printed(report):
    return terminal(evaluation.tables(report), 120)


def test_every_number_is_on_the_page(html):
    report = example()
    words = set(re.findall(r"\d+(?:\.\d+)?", visible(html)))
    expected = numbers([report[key] for key in (*TABLES, "intervals", "chance", "n_clips")])
    assert len(expected) == 8 * 6 + 4 * 6 + 36 + 8 * 4 * 2 + 3 + 1
    assert not [number for number in expected if number not in words]


def test_the_page_says_what_was_measured(html):
    words = visible(html)
    for text in ("test split", "6 classes", "0123456789abcdef", "3 clips could not be decoded.", *LABELS):
        assert text in words
    for name in (*SUBSET_NAMES.values(), AVAILABLE, *SCORES.values()):
        assert name in words


def test_confusion_rows_are_truth():
    report = example(["yes", "no"])
    report["confusion"] = [[111, 222], [333, 444]]
    counts = evaluation.tables(report)[2]
    assert texts(counts) == [["yes", "111", "222"], ["no", "333", "444"]]
    assert "truth" in counts.header[0]
    assert counts.visible_rows == 0  # on demand, below the picture


def test_the_terminal_table_holds_all_scores_and_the_chance_levels():
    report = example()
    text = printed(report)
    for number in numbers(report["subsets"]) + numbers(report["available"]) + numbers(report["chance"]):
        assert number in text
    for key, name in SUBSET_NAMES.items():
        assert re.search(rf"(?m)^\s+{re.escape(name)}\s+{100 * report['subsets'][key]['waf']:.1f}\s", text)


@pytest.mark.parametrize("missing", [["T"], ["A", "T", "VA", "VT", "AT", "VAT"], list(SUBSET_NAMES)])
def test_subsets_without_clips(tmp_path, missing):
    report = example()
    for key in missing:
        report["subsets"][key] = None
    assert visible(page(plain(report), tmp_path)).count("no clips") == len(missing)
    assert printed(report).count("no clips") == len(missing)


def test_nothing_measured_at_all(tmp_path):
    report = example()
    report |= {"subsets": dict.fromkeys(SUBSET_NAMES), "available": None, "n_clips": 0, "notes": []}
    unknown = dict.fromkeys(LABELS, float("nan"))
    report |= {f"per_class_{name}": unknown for name in ("precision", "recall", "f1")}
    report |= {"per_class_n": dict.fromkeys(LABELS, 0), "intervals": {}, "speakers": {}, "confusions": {}}
    report |= {"calibration": report["calibration"] | {"n": 0}, "histories": {}, "balance": {}}
    report["confusion"] = [[0] * 6 for _ in LABELS]
    html = page(report, tmp_path)
    assert "Nothing was measured" in html
    assert "nan" not in visible(html)
    assert "Notes" not in visible(html)


def with_folds(report, count=3):
    reports = [example(seed=seed) for seed in range(1, count + 1)]
    folds = [{"speakers": [], **{k: fold[k] for k in ("n_clips", "subsets", "available")}} for fold in reports]
    return {k: v for k, v in report.items() if k != "checkpoint"} | {"folds": folds}


def test_every_fold_is_shown_for_every_subset_that_exists(tmp_path):
    report = with_folds(example())
    report["subsets"]["V"] = report["folds"][1]["subsets"]["A"] = None
    report["folds"] = [{**fold, "subsets": {**fold["subsets"], "V": None}} for fold in report["folds"]]
    for words in (terminal(evaluation.tables(report), 200), visible(page(plain(report), tmp_path))):
        assert "clips of 3 folds" in words
        for fold in report["folds"]:
            for scores in [*fold["subsets"].values(), fold["available"]]:
                assert all(f"{100 * scores[key]:.1f}" in words for key in evaluation.FOLD_SCORES if scores)
    rows = {row[0]: row[1:] for row in texts(evaluation.tables(report)[3])}
    assert "video" not in rows
    first, third = (report["folds"][i]["subsets"]["A"]["waf"] for i in (0, 2))
    mean, deviation = 100 * np.mean([first, third]), 100 * np.std([first, third])
    assert rows["audio"][1:4] == ["–", f"{100 * third:.1f}", f"{mean:.1f} ± {deviation:.1f}"]
    assert len(evaluation.tables(report)) == len(evaluation.tables(example())) + len(evaluation.FOLD_SCORES)


def test_uar_and_macro_f1_say_over_how_many_classes_they_are(tmp_path):
    report = with_folds(example())
    report["subsets"]["V"]["classes"] = 4
    report["folds"][1]["available"]["classes"] = 5
    report["per_class_n"]["sad"] = 0
    scores, classes, _, *folds = evaluation.tables(report)
    column = scores.header.index("classes")
    assert [row[column] for row in texts(scores)] == ["4 of 6"] + ["6"] * 7
    assert dict(row[:2] for row in texts(classes))["sad"] == "–"
    notes = {table.title: table.note for table in folds}
    assert "5 of 6 in fold 2." in notes["UAR fold by fold"]
    assert notes["WAF fold by fold"] == ""
    report["folds"][1]["available"]["classes"] = 6
    assert "all 6 in each" in evaluation.tables(report)[5].note
    text = visible(page(plain(report), tmp_path))
    assert "4 of 6" in text
    assert "all 6 in each" in text


def test_text_is_escaped(tmp_path):
    evil = "<script>alert('a')</script>&amp;"
    report = example([evil, "$x_1$", "no\\r[m]al"])
    report |= {"split": f"test {evil}", "checkpoint": evil, "notes": [evil]}
    html = page(of_classes(report), tmp_path)
    assert "<script" not in html
    assert visible(html).count(evil) == 8  # two headings, summary, class, both axes of the counts, note, checkpoint
    assert "[m]" in visible(html)
    assert printed(report | {"split": "[bold]x[/nothing]"})


def test_the_page_loads_nothing(html):
    assert not loaded(html)


def test_the_page_holds_the_pictures(folder, html):
    assert embedded(html) == [(folder / f"{name}.png").read_bytes() for name in PICTURES]


@pytest.mark.parametrize("classes", [2, None, 12])
def test_pictures_are_sharp_and_of_a_sensible_size(tmp_path, folder, classes):
    """All of the example, and those of classes where these are few or many and have long names."""
    names = PICTURES
    if classes is not None:
        folder, names = tmp_path, OF_CLASSES
        page(of_classes(example([f"emotion {k} with a long name" for k in range(classes)])), folder)
    paths = list(folder.glob("*.png"))
    assert sorted(path.stem for path in paths) == sorted(names)
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert round(image.info["dpi"][0]) == 150
            assert 500 <= image.width <= 2000
            assert 400 <= image.height <= 2000
            assert np.asarray(image.convert("L")).std() > 10  # something is drawn


def test_labels_of_any_script(tmp_path):
    assert "中性" in page(of_classes(example(["中性", "愤怒"])), tmp_path)


def test_same_report_same_bytes_and_the_report_is_left_alone(html, tmp_path):
    report = example()
    before = copy.deepcopy(report)
    assert page(report, tmp_path) == html
    assert report == before


def test_other_numbers_other_pictures(html, tmp_path):
    others = embedded(page(of_classes(example(seed=1)), tmp_path))
    assert not set(embedded(html)[:3]) & set(others[:3])


def test_half_of_the_interval_stands_beside_each_score():
    report = example()
    report["subsets"]["V"]["waf"], report["intervals"]["V"]["waf"] = 0.7, [0.65, 0.73]
    row = texts(evaluation.tables(report)[0])[0]
    assert row[1] == "70.0 ±4.0"
    del report["intervals"]["V"]["waf"]
    assert texts(evaluation.tables(report)[0])[0][1] == "70.0"


def test_a_model_without_a_temperature_has_a_single_diagram(tmp_path):
    report = example()
    report["calibration"] |= {"temperature": None, "fitted_on": None}
    words = visible(page(report | {"confusions": {}, "speakers": {}, "balance": {}, "histories": {}}, tmp_path))
    assert "no temperature" in words
    with Image.open(tmp_path / "reliability.png") as image:
        assert image.width < 1000
