"""What a person looks at after decoding: the list of bad media, and the sheet of stills."""

import csv

import pytest
from PIL import Image

from emo_ray.data.prepared import BAD_MEDIA
from emo_ray.stages.decoding.corpus import SHEET, prepare_corpus

pytestmark = pytest.mark.usefixtures("ray_session")


def test_bad_media_are_listed_with_their_file_and_good_ones_are_not(table_config):
    with (prepare_corpus(table_config()).path / BAD_MEDIA).open() as stream:
        listed = {(row["clip_id"], row["modality"]): row for row in csv.DictReader(stream)}
    assert listed["truncated", "video"]["file"].endswith("truncated.mp4")
    assert ("good-1", "video") not in listed


def test_a_corpus_has_a_contact_sheet_of_its_labels(tiny_config):
    with Image.open(prepare_corpus(tiny_config).path / SHEET) as sheet:
        assert sheet.width > sheet.height > 500
