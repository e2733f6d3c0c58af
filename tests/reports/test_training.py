import pytest
from reading import texts

from emo_ray.reports import training
from emo_ray.reports.training import summary_table


def scores(start, n):
    return {"waf": start, "accuracy": start + 0.01, "uar": start + 0.02, "macro_f1": start + 0.03, "n": n}


FUSION = scores(0.9, 180) | {f"V/{name}": value for name, value in scores(0.5, 0).items() if name != "n"}
BEST = {"fusion": FUSION | {"mean/waf": 0.7, "epoch": 0}, "emovclip": scores(0.8, 172) | {"epoch": 4}}


def test_phases_stand_in_their_order_with_the_epoch_counted_from_one():
    assert texts(training.tables(BEST)[0]) == [
        ["EmoVCLIP", "5", "172", "80.0", "81.0", "82.0", "83.0"],
        ["fusion head", "1", "180", "90.0", "91.0", "92.0", "93.0"],
    ]


def test_the_head_is_shown_by_modalities():
    table = training.tables(BEST)[1]
    rows = {row[0]: row[1:] for row in texts(table)}
    assert rows["video"] == ["50.0", "51.0", "52.0", "53.0"]
    assert rows["audio"] == ["–"] * 4
    assert rows["mean of these subsets"][0] == "70.0"
    assert rows["whatever each clip has"] == ["90.0", "91.0", "92.0", "93.0"]
    assert len(rows) == 9
    assert list(table.emphasised) == [8]


def test_without_validation_clips_there_are_only_epochs():
    only, *more = training.tables({"fusion": {"epoch": 5}})
    assert not more
    assert texts(only) == [["fusion head", "6", *["–"] * 5]]
    assert "No validation clips" in only.note


@pytest.mark.parametrize(("value", "words"), [("clips", (0,)), ("folder", (0, 1))])
def test_plain_values_stand_in_one_column(value, words):
    entries = {"a": 3, "b": 4} if value == "clips" else {"a": "/x", "b": "/y"}
    table = summary_table("A title", entries, "label", value)
    assert list(table.header) == ["label", value]
    assert texts(table) == [[name, str(entry)] for name, entry in entries.items()]
    assert tuple(table.words) == words


def test_nested_counts_have_a_column_for_each_inner_key():
    table = summary_table("A title", {"train": {"happy": 3, "sad": 4}, "test": {"calm": 1, "sad": 2}}, "split")
    assert list(table.header) == ["split", "happy", "sad", "calm"]
    assert texts(table) == [["train", "3", "4", "0"], ["test", "0", "2", "1"]]
