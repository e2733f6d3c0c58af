"""What a person looks at after decoding: the list of bad media, and the sheet of stills."""

import csv

import pyarrow as pa
import pytest
from PIL import Image

from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import BAD_MEDIA
from emo_ray.stages.decoding.corpus import SHEET, prepare_corpus
from emo_ray.stages.decoding.inspection import write_bad_media, write_media_notes

pytestmark = pytest.mark.usefixtures("ray_session")


def test_bad_media_are_listed_with_their_file_and_good_ones_are_not(table_config):
    with (prepare_corpus(table_config()).path / BAD_MEDIA).open() as stream:
        listed = {(row["clip_id"], row["modality"]): row for row in csv.DictReader(stream)}
    assert listed["truncated", "video"]["file"].endswith("truncated.mp4")
    assert ("good-1", "video") not in listed


def test_notes_are_listed_beside_the_bad_media(tmp_path):
    clips = [
        Clip("a", video="a.mp4", start_s=1.5, end_s=20.0),
        Clip("b", video="b.mp4", audio="b.wav"),
        Clip("c", text="words"),
    ]
    columns = {
        "clip_id": ["a", "b", "c"],
        "video_status": ["ok", "ok: video stream 1 of 2", "missing"],
        "audio_status": ["corrupt: truncated", "ok: 1 of 9 packets unreadable", "missing"],
        "text_status": ["missing", "missing: empty", "ok"],
    }
    listed = []
    for write in (write_bad_media, write_media_notes):
        write(tmp_path / "list.csv", clips, pa.table(columns))
        with (tmp_path / "list.csv").open(newline="") as stream:
            listed.append(list(csv.reader(stream))[1:])
    assert listed == [
        [["a", "audio", "corrupt: truncated", "a.mp4", "1.5", "20"], ["b", "text", "missing: empty", "", "", ""]],
        [
            ["b", "video", "ok: video stream 1 of 2", "b.mp4", "", ""],
            ["b", "audio", "ok: 1 of 9 packets unreadable", "b.wav", "", ""],
        ],
    ]


def test_a_corpus_has_a_contact_sheet_of_its_labels(tiny_config):
    with Image.open(prepare_corpus(tiny_config).path / SHEET) as sheet:
        assert sheet.width > sheet.height > 500
