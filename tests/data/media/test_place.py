"""Media that storage, network or machine do not let be read: never a status."""

import shutil

import pytest
from faults import UNREADABLE, few_files, unprivileged

from emo_ray.config.media_settings import Media
from emo_ray.data import media, shards
from emo_ray.data.manifest import Clip
from emo_ray.experiments.chaos.bucket import serving
from emo_ray.trouble import PlaceTrouble

READERS = [(media.read_audio, 120.0), (media.read_video, 2, 32)]


@pytest.mark.parametrize(("read", "args"), [(read, args) for read, *args in READERS])
def test_local_trouble_is_raised_and_passes(media_files, tmp_path, read, args):
    path = shutil.copy(media_files["clip"], tmp_path / "clip.mp4")
    path.chmod(0)
    with unprivileged(), pytest.raises(PlaceTrouble, match=r"clip\.mp4: Permission denied"):
        read(str(path), *args)
    path.chmod(0o600)
    with few_files(), pytest.raises(PlaceTrouble, match="Too many open files"):
        read(str(path), *args)
    assert read(str(path), *args)[1] == "ok"


def test_a_file_that_its_disk_does_not_give_is_no_damaged_file():
    with pytest.raises(PlaceTrouble, match="Input/output error"):
        media.read_audio(UNREADABLE, 120.0)


@pytest.mark.parametrize("status", [403, 404])
def test_what_a_bucket_refuses_is_trouble_and_what_it_lacks_is_missing(media_files, status):
    with serving(media_files["clip"].parent) as bucket:
        source = bucket.address("clip.mp4")
        bucket.refused["clip.mp4"] = status
        if status == 404:
            assert media.read_audio(source, 120.0) == (None, "missing: no such file")
        else:
            with pytest.raises(PlaceTrouble, match="ACCESS_DENIED"):
                media.read_audio(source, 120.0)
        bucket.refused.clear()
        assert media.read_audio(source, 120.0)[1] == "ok"


def test_a_part_with_trouble_is_left_unmade_and_made_when_it_is_over(media_files, tmp_path):
    config = Media(frames=2, patience_s=0.0)
    with serving(media_files["clip"].parent) as bucket:
        sources = [bucket.address(name) for name in ("clip.mp4", "stereo.wav", "absent.wav", "text.mp4")]
        clips = shards.identified([Clip(f"clip-{i}", audio=source) for i, source in enumerate(sources)], "sample")
        shards.write_part(tmp_path / "undisturbed.parquet", clips, config, 32)
        bucket.refused |= {"clip.mp4": 403, "stereo.wav": 403}
        with pytest.raises(PlaceTrouble) as caught:
            shards.write_part(tmp_path / "part.parquet", clips, config, 32)
        assert sorted(caught.value.reasons) == sorted(sources[:2])
        assert not (tmp_path / "part.parquet").exists()
        bucket.refused.clear()
        shards.write_part(tmp_path / "part.parquet", clips, config, 32)
    assert (tmp_path / "part.parquet").read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()
