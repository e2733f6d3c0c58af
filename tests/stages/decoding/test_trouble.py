"""Jobs that meet trouble of the place: what they could do is kept, and the same command goes on to an equal store."""

import pytest

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.experiments.chaos.bucket import serving
from emo_ray.failures import failure_of
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.trouble import PlaceTrouble

pytestmark = pytest.mark.usefixtures("ray_session")


def content_of(root):
    """Every visible file of a store, by its path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_the_same_command_makes_an_equal_store_when_the_fault_is_over(tiny_config, media_files, tmp_path):
    with serving(media_files["clip"].parent) as bucket:
        names = ("clip.mp4", "stereo.wav", "silent.mp4", "text.mp4", "absent.mp4", "old.avi")
        clips = [
            Clip(f"clip-{i}", video=bucket.address(name), text="well", label=("happy", "sad")[i % 2])
            for i, name in enumerate(names)
        ]
        manifest.write(tmp_path / "clips.parquet", clips)
        keys = {"data.manifest": str(tmp_path / "clips.parquet"), "data.schemes": ["s3"]}
        keys |= {"data.outside_root": True, "media.clips_per_part": 1, "media.patience_s": 0.0}
        configs = [override(tiny_config, {**keys, "store.root": str(tmp_path / name)}) for name in ("whole", "met")]
        whole = prepare_corpus(configs[0])

        bucket.refused["silent.mp4"] = 403
        with pytest.raises(PlaceTrouble) as caught:
            prepare_corpus(configs[1])
        failure = failure_of(caught.value, tmp_path / "met")
        assert failure.status == 2
        assert "s3://bucket/silent.mp4: " in failure.message
        assert not list((tmp_path / "met").glob("prepared/*/meta.json"))
        parts = {path.name for path in (tmp_path / "met").glob("shards/*/*.parquet")}
        assert parts < set(whole.parts)
        assert len(parts) == len(whole.parts) - 1

        bucket.refused.clear()
        prepare_corpus(configs[1])
    assert content_of(tmp_path / "met") == content_of(tmp_path / "whole")
