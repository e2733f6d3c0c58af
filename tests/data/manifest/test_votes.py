"""Annotators' votes in tables: every way to write them gives the same votes, and what is no vote is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.manifest import checks, read_table

VOTES = {"a": {"happy": 3, "sad": 1}, "b": {"angry": 2}, "c": {}}
SORTED = {"a": (("happy", 3.0), ("sad", 1.0)), "b": (("angry", 2.0),), "c": None}


def votes_of(path, **settings):
    return {clip.clip_id: clip.votes for clip in read_table(path, Data(**settings))[0]}


def test_columns_lists_and_objects_give_the_same_votes(tmp_path):
    names = sorted({label for votes in VOTES.values() for label in votes})
    header = ["clip_id", "text", *(f"votes.{name}" for name in names)]
    rows = [[clip_id, "x", *(str(votes.get(name, "")) for name in names)] for clip_id, votes in VOTES.items()]
    (tmp_path / "columns.csv").write_text("\n".join(map(",".join, [header, *rows])))
    assert votes_of(tmp_path / "columns.csv") == SORTED
    assert set(votes_of(tmp_path / "columns.csv", columns={"votes": None}).values()) == {None}
    (tmp_path / "letters.csv").write_text((tmp_path / "columns.csv").read_text().replace("votes.", ""))
    assert set(votes_of(tmp_path / "letters.csv").values()) == {None}
    assert votes_of(tmp_path / "letters.csv", columns={"votes": names}) == SORTED
    lists = {clip_id: [name for name, n in votes.items() for _ in range(n)] for clip_id, votes in VOTES.items()}
    for name, cells in {
        "texts": {clip_id: ";".join(votes) for clip_id, votes in lists.items()},
        "json": {clip_id: json.dumps(votes) for clip_id, votes in VOTES.items()},
        "lists": lists,
        "objects": VOTES,
    }.items():
        rows = [{"clip_id": clip_id, "text": "x", "by": cell} for clip_id, cell in cells.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert votes_of(tmp_path / f"{name}.jsonl", columns={"votes": "by"}) == SORTED
    pq.write_table(
        pa.table({"clip_id": list(lists), "text": ["x"] * 3, "by": list(lists.values())}), tmp_path / "t.parquet"
    )
    assert votes_of(tmp_path / "t.parquet", columns={"votes": "by"}) == SORTED


def test_votes_of_a_manifest_of_ours_are_read_as_a_table_too(tmp_path):
    clips = [manifest.Clip(clip_id, text="x", label="sad", votes=votes) for clip_id, votes in SORTED.items()]
    manifest.write(tmp_path / "clips.parquet", clips)
    assert read_table(tmp_path / "clips.parquet", Data())[0] == manifest.read(tmp_path / "clips.parquet") == clips
    (tmp_path / "counts.csv").write_text("clip_id,text,votes\na,x,3\n")  # how many there were, not for what
    assert votes_of(tmp_path / "counts.csv") == {"a": None}


@pytest.mark.parametrize("cell", ["-1", "many", "nan", "inf"])
def test_what_counts_no_votes_is_named(cell, tmp_path):
    (tmp_path / "clips.csv").write_text(f"clip_id,text,votes.sad\na,x,1\nb,x,{cell}\n")
    with pytest.raises(ValueError, match=rf"row 2, column votes.sad: .*{cell}"):
        read_table(tmp_path / "clips.csv", Data())


def test_columns_that_are_not_there_and_lists_of_other_things_are_named(tmp_path):
    (tmp_path / "clips.jsonl").write_text(json.dumps({"clip_id": "a", "text": "x", "by": [1, 2]}))
    with pytest.raises(ValueError, match=r"data\.columns\.votes: .*'who'.*by"):
        read_table(tmp_path / "clips.jsonl", Data(columns={"votes": "who"}))
    with pytest.raises(ValueError, match="column by: found list"):
        read_table(tmp_path / "clips.jsonl", Data(columns={"votes": "by"}))


def test_a_clip_without_a_label_has_the_one_that_most_voted_for(tmp_path):
    cells = ["a,,x,,2,1", "b,,x,,1,1", "c,sad,x,,3,1", "d,,x,unlabelled,3,1"]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,label,text,split,votes.happy,votes.sad", *cells]))
    labels = {clip.clip_id: clip.label for clip in read_table(tmp_path / "clips.csv", Data())[0]}
    assert labels == {"a": "happy", "b": None, "c": "sad", "d": None}


def test_votes_follow_their_labels_to_classes(tmp_path):
    clips = [manifest.Clip("a", label="A", votes=(("A", 1.0), ("H", 2.0), ("H2", 0.5), ("X", 4.0)))]
    data = Data(label_map={"A": "angry", "H": "happy", "H2": "happy", "X": None})
    (clip,), notes = checks.cleaned(clips, data, "here")
    assert clip.votes == (("angry", 1.0), ("happy", 2.5))
    assert clip.label == "angry"
    assert any("train.targets=votes" in note for note in notes)
    with pytest.raises(ValueError, match=r"'A'.*'a'"):
        checks.cleaned([manifest.Clip("a", label="A", votes=(("a", 1.0),))], Data(), "here")
