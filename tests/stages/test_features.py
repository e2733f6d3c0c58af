"""features: a folder for each modality, and of video where a checkpoint is given."""

from pathlib import Path

import pytest

from emo_ray.config import override
from emo_ray.stages.features import features

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_job_covers_video_where_a_checkpoint_is_given(tiny_config, evaluated):
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    assert set(features(tiny_config).content) == {"audio", "text"}
    assert set(features(override(tiny_config, {"checkpoint": str(model)})).content) == {"audio", "text", "video"}
