"""What tables, CSV and page of a sweep show, from made-up trials."""

import copy
import csv
import json
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image
from reading import terminal, texts, visible

from emo_ray.reports import sweep as report

SPACE = {
    "fusion.dropout": {"uniform": [0.0, 0.6]},
    "fusion.lr": {"loguniform": [1e-4, 1e-2]},
    "emovclip.global_prompts": {"choice": [0, 4, 8]},
    "emovclip.context_length": {"randint": [2, 4]},
    "fusion.pooling": {"choice": ["mean", "<b>[red]max</b>", None, True]},
}


def params(number, rng):
    return {
        "fusion.dropout": float(rng.uniform(0, 0.6)),
        "fusion.lr": float(10 ** rng.uniform(-4, -2)),
        "emovclip.global_prompts": [0, 4, 8][number % 3],
        "emovclip.context_length": 2 + number % 2,
        "fusion.pooling": SPACE["fusion.pooling"]["choice"][number % 4],
    }


def trial(number, value, state="complete", settings=None, error=None):
    """The history climbs to the value, which may be of the first phase."""
    history = [] if value is None else [[epoch, value - 0.1 / epoch] for epoch in (1, 2)] + [[3, value]]
    settings = settings or params(number, np.random.default_rng(number))
    about = {"number": number, "params": settings, "state": state, "value": value, "epochs": len(history)}
    return about | {"seconds": 2.0 + number, "history": history, "error": error}


def example(complete=8, pruned=30, failed=2, **changes):
    values = np.random.default_rng(1).uniform(0.6, 0.7, complete).tolist()
    trials = [trial(number, value) for number, value in enumerate(values)]
    for number in range(complete, complete + pruned):
        trials.append(trial(number, -0.5 if number % 3 == 0 else 0.3 + number / 1000, "pruned"))
    for number in range(complete + pruned, complete + pruned + failed):
        trials.append(trial(number, None, "failed", error="<script>alert('x')</script>, out of memory [red]"))
    return {
        "objective": "mean/waf",
        "bulk": True,
        "search": "tpe",
        "scheduler": "asha",
        "folds": None,
        "space": SPACE,
        "trials": trials,
        "best": int(np.argmax(values)) if values else None,
        "default": 0,
        "retrained": 0.6123,
        "seconds": 512.0,
        "notes": ["warning: <i>few</i> trials"],
    } | changes


def printed(content, width=200):
    return terminal(report.tables(content), width)


def page_of(content, folder):
    return report.write(content, folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a page with all pictures, of `example(complete=12)`; each page takes a second to draw."""
    folder = tmp_path_factory.mktemp("sweep")
    report.write(example(complete=12), folder)
    return folder


def test_the_best_stands_beside_the_recipe_with_every_setting(tmp_path):
    content = example(pruned=4)
    content["trials"][0]["value"], content["trials"][5]["value"], content["best"] = 0.65, 0.7123, 5
    compared = texts(report.tables(content)[0])
    assert compared[0] == ["objective, percent", "65.0", "71.2", "+6.2"]
    assert compared[1] == ["… trained again in the ordinary way", "", "61.2", ""]
    assert [row[0] for row in compared[2:]] == list(SPACE)
    assert compared[4][1:3] == ["0", "8"]
    assert compared[6][1:3] == ["mean", "<b>[red]max</b>"]
    for text in (visible(page_of(content, tmp_path)), " ".join(printed(content).split())):
        assert report.summary(content) in text
    for part in ("Trial 5", "14 trials", "71.2 % WAF, mean of the seven subsets", "+6.2", "trial 0, 65.0 %", "61.2 %"):
        assert part in report.summary(content)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"best": 0}, ["recipe as it is (trial 0)", "best of 40 trials", "65.1 %"]),
        ({"default": 9}, ["recipe as it is (trial 9)", "not get to the end"]),
        ({"complete": 0, "retrained": None}, ["No trial was completed"]),
        ({"objective": "VA/uar"}, ["UAR with video + audio"]),
        ({"objective": "available/macro_f1"}, ["macro F1 with whatever each clip has"]),
        ({"complete": 1, "pruned": 0, "failed": 0}, ["1 trial:"]),
    ],
)
def test_the_summary_says_what_there_is(changes, parts):
    assert all(part in report.summary(example(**changes)) for part in parts)


def test_a_space_without_the_recipe_is_compared_with_nothing(tmp_path):
    content = example(pruned=4, default=None)
    best = content["trials"][content["best"]]
    rows = texts(report.tables(content)[0])
    assert rows[0] == ["objective, percent", "–", f"{100 * best['value']:.1f}", "–"]
    assert [row[2] for row in rows[2:]] == [report.as_text(best["params"][key]) for key in SPACE]
    assert "recipe" not in report.summary(content)
    assert report.write(content, tmp_path).exists()


@pytest.mark.parametrize("state", ["pruned", "failed"])
def test_a_recipe_that_did_not_get_to_the_end_is_compared_with_nothing(state):
    content = example()
    content["trials"][0]["state"] = state
    row = texts(report.tables(content)[0])[0]
    assert row[1].endswith({"pruned": "(stopped early)", "failed": "(failed)"}[state])
    assert row[3] == "–"


def test_trials_stand_the_best_first_by_state():
    trials = report.ordered(example())
    keys = [(["complete", "pruned", "failed"].index(t["state"]), -(t["value"] or 0)) for t in trials]
    assert keys == sorted(keys)
    assert {trial["number"] for trial in trials} == set(range(40))
    equal = example(complete=0, trials=[trial(number, 0.5) for number in (3, 1, 2)], default=1)
    assert [trial["number"] for trial in report.ordered(equal)] == [1, 2, 3]


@pytest.mark.parametrize(("count", "more"), [(25, ""), (26, "1 more"), (40, "15 more")])
def test_the_first_trials_are_shown_and_the_others_counted(count, more):
    content = example(pruned=count - 8, failed=0)
    table = report.tables(content)[1]
    assert len(table.rows) == count
    assert table.visible_rows == 25
    assert more in printed(content)
    assert ("more on the page" in printed(content)) == bool(more)


def test_the_best_and_the_recipe_are_emphasised_among_the_trials():
    content = example()
    table = report.tables(content)[1]
    assert {texts(table)[row][0] for row in table.emphasised} == {str(content["best"]), "0"}


def test_the_first_phase_has_no_numbers(tmp_path):
    content = example(complete=2, pruned=4, failed=0)
    cells = {row[0]: row for row in texts(report.tables(content)[1])}
    assert cells["3"][1:3] == ["stopped in EmoVCLIP's phase", "not yet"]
    assert cells["4"][1:3] == ["stopped early", "30.4"]
    page = visible(page_of(content, tmp_path))
    assert "stopped in EmoVCLIP's phase" in page
    assert "-50" not in page
    assert "−50" not in page


def test_prompts_by_hand():
    settings = params(0, np.random.default_rng(0))
    trials = [trial(0, 0.5, settings=settings), trial(1, 0.7, settings=settings), trial(2, 0.4, "pruned", settings)]
    trials.append(trial(3, 0.3, "pruned", settings | {"emovclip.global_prompts": 8}))
    space = {key: SPACE[key] for key in ("emovclip.global_prompts", "fusion.lr", "emovclip.context_length")}
    table = report.tables(example(0, 0, 0, trials=trials, best=1, space=space))[2]
    assert texts(table) == [
        ["emovclip.global_prompts = 0", "3", "2", "60.0", "70.0", "3.0"],
        ["emovclip.global_prompts = 8", "1", "0", "–", "–", "–"],
        ["emovclip.context_length = 2", "4", "2", "60.0", "70.0", "3.0"],
    ]


@pytest.mark.parametrize("space", [{"fusion.lr": {"choice": [1]}}, {"emovclip.lr": {"uniform": [0, 1]}}])
def test_no_table_of_prompts_without_their_settings(tmp_path, space):
    key = next(iter(space))
    content = example(0, 0, 0, trials=[trial(0, 0.5, settings={key: 1})], best=0, space=space)
    assert len(report.tables(content)) == 2
    assert "prompts" not in page_of(content, tmp_path)


def test_every_trial_is_in_the_csv_once_and_reads_back_the_same(folder):
    content = example(complete=12)
    with (folder / report.CSV).open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [int(row["number"]) for row in read] == list(range(44))
    for row, tried in zip(read, content["trials"], strict=True):
        assert (row["state"], row["error"]) == (tried["state"], tried["error"] or "")
        assert (float(row["value"]) if row["value"] else None) == tried["value"]
        assert (int(row["epochs"]), float(row["seconds"])) == (tried["epochs"], tried["seconds"])
        for key, setting in tried["params"].items():
            assert (row[key] if isinstance(setting, str) else json.loads(row[key])) == setting
            assert isinstance(setting, str) or type(json.loads(row[key])) is type(setting)


def test_what_users_write_is_no_markup(folder):
    content, html = example(complete=12), (folder / report.PAGE).read_text(encoding="utf-8")
    for raw in ("<script>", "<b>", "<i>"):
        assert raw not in html
    for text in ("<script>alert('x')</script>, out of memory [red]", "<b>[red]max</b>", "warning: <i>few</i> trials"):
        assert text in unescape(html)
    assert "<script>alert('x')</script>, out of memory [red]" in printed(example(pruned=0), 300)
    assert "<b>[red]max</b>" in printed(content, 300)


def test_the_page_counts_trials_and_holds_every_picture(tmp_path):
    page = page_of(example(folds=5, scheduler="none", search="random", bulk=False), tmp_path)
    counts = ["8 complete", "30 stopped early", "2 failed", "8.5 minutes"]
    for part in (*counts, "Search: random", "no early stopping", "each trial by itself", "5 folds"):
        assert part in visible(page)
    names = ["curves.png", "settings.png", report.PAGE, report.CSV, "trials.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert page.count("data:image/png") == 3
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
    numbers = set(re.findall(r'<th scope="row">(\d+)</th>', page))
    assert numbers == {str(number) for number in range(40)}


@pytest.mark.parametrize(("seconds", "text"), [(12.34, "12.3 seconds"), (119, "119.0 seconds"), (7200, "2.0 hours")])
def test_time_in_words(seconds, text):
    assert report._duration(seconds) == text


def test_importance_is_said_to_be_a_hint(folder, tmp_path):
    page = (folder / report.PAGE).read_text(encoding="utf-8")
    assert (folder / "importance.png").is_file()
    assert "By fANOVA" in page
    assert "12 complete trials" in page
    assert "hint" in page
    assert "fANOVA" not in page_of(example(complete=9, pruned=4), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        example(complete=1, pruned=0, failed=0),
        example(complete=0, pruned=0, failed=3, retrained=None, notes=[]),
        example(complete=0, pruned=4, failed=0, retrained=None),
        example(pruned=4, space={"fusion.lr": SPACE["fusion.lr"]}),
        example(pruned=4, space={"fusion.pooling": SPACE["fusion.pooling"]}),
        example(0, 0, 0, trials=[trial(number, 0.5) for number in range(12)], best=0),
        example(0, 0, 0, trials=[trial(0, 0.5, settings={}), trial(1, 0.6, settings={})], best=1, space={}),
        example(0, 0, 0, trials=[trial(0, float("nan")), trial(1, 0.6)], best=1),
    ],
    ids=["one", "failed", "pruned", "log", "words", "constant", "no keys", "nan"],
)
def test_little_makes_a_page_too(tmp_path, content):
    before = copy.deepcopy(content)
    assert "nan" not in visible(page_of(content, tmp_path)).lower()
    assert "nan" not in printed(content).lower()
    assert repr(content) == repr(before)


def test_a_page_with_all_pictures_is_the_same_every_time(folder, tmp_path):
    content = example(complete=12)
    report.write(content, tmp_path / "again")
    assert printed(content) == printed(content)
    names = {path.name for path in folder.iterdir()}
    assert names == {"curves.png", "importance.png", "settings.png", "trials.png", report.PAGE, report.CSV}
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
