"""The check of a corpus as a job: its files, its page and its exit status."""

import csv
import shutil

import pytest
from pages import flaws
from reading import visible

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.stages.check import check


@pytest.fixture(scope="module")
def checked(evaluated, tiny_config):
    return check(tiny_config)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_synthetic_corpus_does_not_leak(checked, tiny_config):
    assert checked.status == 0
    severities = {outcome["check"]: outcome["severity"] for outcome in checked.content["outcomes"]}
    assert severities["leakage by content"] == severities["leakage by speaker"] == "fine"
    assert checked.content["clips"] == 72
    assert check(tiny_config).path == checked.path


def test_files_name_every_clip_in_question(checked):
    counts = {outcome["check"]: outcome["clips"] for outcome in checked.content["outcomes"] if outcome["clips"]}
    rows = rows_of(checked.path / "clips.csv")
    assert {name: sum(row["check"] == name for row in rows) for name in counts} == counts
    html = (checked.path / "report.html").read_text("utf-8")
    assert not flaws(html)
    assert all(outcome["text"] in visible(html) for outcome in checked.content["outcomes"])


def test_a_clip_in_two_splits_ends_with_status_2(evaluated, tiny_config, tmp_path):
    from emo_ray.stages.decoding.corpus import prepare_corpus

    usable = [clip for clip in prepare_corpus(tiny_config).clips if clip.video and clip.label]
    clips = [clip for name in ("train", "validation", "test") for clip in usable if clip.split == name][:40:4]
    train = clips[0]
    copy = shutil.copy(train.video, tmp_path / "copy.mp4")
    rows = [*clips, manifest.Clip("copy", str(copy), label=train.label, split="test", text="<b>copy</b>")]
    manifest.write(tmp_path / "clips.parquet", rows)
    config = override(
        tiny_config, {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "s")}
    )
    result = check(config)
    assert result.status == 2
    pairs = {frozenset((row["first"], row["second"])) for row in rows_of(result.path / "pairs.csv")}
    assert pairs == {frozenset((train.clip_id, "copy"))}
    html = (result.path / "report.html").read_text("utf-8")
    assert not flaws(html)
    assert "<b>copy" not in html
    assert "<b>copy" in visible(html)
