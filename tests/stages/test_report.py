"""The front page of a store: what is there with its scores, links that a copy keeps, and never an error."""

import json
import os
import re
import shutil
from urllib.parse import unquote

import pytest
from pages import flaws
from reading import visible

from emo_ray import durable, store
from emo_ray.config import load
from emo_ray.stages import report as stage
from emo_ray.stages.report import refresh, sections_of

SCORES = {"waf": 0.5, "accuracy": 0.25, "uar": 0.125}
CONTENTS = {
    "reports/a": ({}, "report.json", {
        "checkpoint": "model-1", "split": "test", "n_clips": 9, "labels": ["x", "y"], "available": SCORES,
    }),
    "reports/folds-b": ({}, "report.json", {
        "folds": [1, 2, 3], "split": "test", "n_clips": 9, "labels": ["x", "y"], "available": None,
    }),
    "reports/corpora-c": ({}, "report.json", {"corpora": ["one", "two"], "pairs": []}),
    "reports/noise-d": ({"kind": "noise ladder"}, "noise.json", {"steps": []}),
    "checkpoints/model-1": ({"best": {"fusion": SCORES, "emovclip": {"waf": 0.75}}}, "labels.json", ["x", "y"]),
    "checkpoints/emovclip-1": ({"best": {"emovclip": {"waf": 0.75}}}, "labels.json", ["x", "y"]),
    "self_train/d": ({}, "rounds.json", {"best": 1, "rounds": [{"number": 0}, {"number": 1, "scores": SCORES}]}),
    "sweeps/e": ({}, "sweep.json", {
        "best": 4, "objective": "mean/waf", "space": {"fusion.lr": {}},
        "trials": [{"number": 4, "state": "complete", "value": 0.625}, {"number": 5, "state": "pruned", "value": None}],
    }),
    "predictions/f": ({"counts": {"x": 2, "y": 1}, "unusable": 1}, "timelines/talk.html", None),
    "pseudo_labels/g/round-1": ({}, "report.json", {"accepted": 3, "clips": 5, "policy": "quantile"}),
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A store with an artefact of each kind; the later ones of `CONTENTS` are newer."""
    for age, (name, (meta, file, content)) in enumerate(CONTENTS.items()):
        folder = tmp_path / "store" / name
        durable.write_text(folder / file, json.dumps(content))
        store.write_meta(folder, meta)
        os.utime(folder / store.META, (1_000_000 + age, 1_000_000 + age))
    return tmp_path / "store"


def page_of(root):
    refresh(root)
    return (root / "index.html").read_text("utf-8")


def test_each_kind_stands_on_the_page_with_its_score(root):
    html = page_of(root)
    words = " ".join(visible(html).split())
    for text in (
        "4 reports, 2 models, 1 self-training run, 1 sweep", "50.0 WAF, 25.0 accuracy, 12.5 UAR",
        "75.0 WAF (validation)",
        "No modality could be degraded", "model-1 on 9 clips, test split, 2 classes", "one, two",
        "3 folds on 9 clips, cross-validation",
        "1 round; the best is round 1", "2 trials (1 complete, 1 pruned) over fusion.lr", "62.5 mean/waf",
        "4 clips; most often x 2, y 1", "3 of 5 clips accepted by policy quantile", "g, round-1",
    ):  # fmt: skip
        assert text in words
    assert not flaws(html)


def test_the_newest_of_a_kind_comes_first(root):
    html = page_of(root)
    assert html.index("corpora-c") < html.index("folds-b") < html.index('href="reports/a/')


def test_links_lead_to_what_is_there_in_a_copy_too(root, tmp_path):
    for name in ("report.html", "mistakes.html"):  # of which the first leads to the others
        (root / "reports" / "a" / name).write_text("")
    page_of(root)
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(root)
    links = [unquote(link) for link in re.findall('href="([^"]*)"', (copy / "index.html").read_text("utf-8"))]
    assert {"reports/a/report.html", "predictions/f/timelines/talk.html", "sweeps/e/"} <= set(links)
    assert all((copy / link).exists() for link in links)


@pytest.mark.parametrize("meta", ["", "[3", "3", "null", "[]", '{"best": 7}', '{"counts": null, "unusable": "x"}'])
def test_damaged_and_unfinished_artefacts_are_told_in_words(root, meta):
    for name in CONTENTS:
        folder = root / name
        shutil.copytree(folder, folder.with_name("unfinished"), dirs_exist_ok=True)
        (folder.with_name("unfinished") / store.META).unlink()
        (folder / store.META).write_text(meta)
        for file in folder.glob("*.json"):
            if file.name != store.META:
                file.write_text("{}")
    html = page_of(root)
    assert not flaws(html)
    states = {entry.name: entry.state for section in sections_of(root) for entry in section.entries}
    assert "jobs/verify.py" in states["a"]
    assert "not finished" in states["unfinished"]


def test_names_are_no_markup(root):
    name = "<b>\"x\" & 'y' %20 #?"
    (root / "reports" / "a").rename(root / "reports" / name)
    html = page_of(root)
    assert not flaws(html)
    assert "<b>" not in html
    links = [unquote(link) for link in re.findall('href="([^"]*)"', html)]
    assert f"reports/{name}/" in links


def test_trouble_with_the_page_is_no_trouble_of_the_job(root, capsys):
    (root / "index.html").mkdir()
    (root / "index.html" / "file").touch()
    refresh(root)
    assert "front page" in capsys.readouterr().err


def test_an_empty_folder_stays_empty(tmp_path):
    refresh(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_job_wants_a_store(tmp_path):
    (tmp_path / "web" / "pictures").mkdir(parents=True)
    (tmp_path / "web" / "pictures" / "me.png").touch()
    for name in ("none", "web"):
        with pytest.raises(ValueError, match=r"store\.root"):
            stage.report(load("mini", {"store.root": str(tmp_path / name)}))
    assert not (tmp_path / "web" / "index.html").exists()


def test_a_page_of_somebody_else_is_left_alone(root, capsys):
    page = root / "index.html"
    page.write_text("<title>My page</title>")
    refresh(root)
    assert "index.html" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"index\.html.*store\.root"):
        stage.report(load("mini", {"store.root": str(root)}))
    assert page.read_text() == "<title>My page</title>"
    page.write_text("")  # a damaged one of ours
    for _ in range(2):
        refresh(root)
        assert "</html>" in page.read_text()
    assert not capsys.readouterr().err


def test_runs_that_were_stopped_are_counted(root):
    (root / "tune" / "abc").mkdir(parents=True)
    assert "1 run unfinished" in visible(page_of(root))


def test_the_job_lists_a_real_store(evaluated, tiny_config):
    result = stage.report(tiny_config)
    entries = {title: rows for title, rows in result.content.items() if rows}
    assert {"Reports", "Models", "Corpora"} <= set(entries)
    assert all(row["about"] and not row["state"] for rows in entries.values() for row in rows)
    assert all(row["score"] for row in entries["Reports"] if evaluated.path.name in row["href"])
    assert (result.path.parent / entries["Reports"][0]["href"]).is_file()
