"""prepare: counts of clips by split and status, and where bad media are listed."""

import pytest

from emo_ray.data.prepared import BAD_MEDIA
from emo_ray.stages.decoding.corpus import SHEET
from emo_ray.stages.prepare import prepare

pytestmark = pytest.mark.usefixtures("ray_session")


def test_it_counts_clips_and_names_its_files(tiny_config):
    result = prepare(tiny_config)
    assert result.content["splits"] == {"train": 36, "validation": 12, "test": 24}
    assert all(sum(result.content[name].values()) == 72 for name in ("video", "audio", "text"))
    assert any(str(result.path / BAD_MEDIA) in line for line in result.lines)
    assert any(str(result.path / SHEET) in line for line in result.lines)
