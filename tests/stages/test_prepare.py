"""prepare: counts of clips by split and status, and where bad media are listed."""

import shutil

import pytest

from emo_ray.config import override
from emo_ray.data.prepared import BAD_MEDIA
from emo_ray.stages.decoding.corpus import SHEET
from emo_ray.stages.prepare import prepare

pytestmark = pytest.mark.usefixtures("ray_session")


def test_it_counts_clips_and_names_its_files(tiny_config):
    result = prepare(tiny_config)
    assert result.content["splits"] == {"train": 36, "validation": 12, "test": 24}
    assert all(sum(result.content[name].values()) == 72 for name in ("video", "audio", "text"))
    assert any(str(result.path / SHEET) in line for line in result.lines)


def test_bad_media_are_named_with_their_number_and_only_where_there_are_some(tiny_config, media_files, tmp_path):
    config = override(tiny_config, {"data.manifest": str(tmp_path / "clips"), "store.root": str(tmp_path / "store")})
    (tmp_path / "clips").mkdir()
    shutil.copy(media_files["clip"], tmp_path / "clips" / "good.mp4")
    assert not any(BAD_MEDIA in line for line in prepare(config).lines)
    shutil.copy(media_files["text"], tmp_path / "clips" / "bad.mp4")
    result = prepare(config)
    (line,) = [line for line in result.lines if BAD_MEDIA in line]
    listed = (result.path / BAD_MEDIA).read_text().splitlines()[1:]
    assert len(listed) == 2  # its video and its sound
    assert f"(2): {result.path / BAD_MEDIA}" in line
