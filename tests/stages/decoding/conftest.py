"""A table of good and bad clips, for the tests of decoding."""

import shutil

import pytest

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip


@pytest.fixture
def table_config(tiny_config, media_files, tmp_path):
    """A function to a config on a table of good and bad clips; it takes more clips, and config keys."""

    def config(more=(), **changes):
        (tmp_path / "copies").mkdir(exist_ok=True)

        def copy(name, number):
            """A file of its own, the same in every call: rows do not share files."""
            path = tmp_path / "copies" / f"{number}-{media_files[name].name}"
            return str(path if path.exists() else shutil.copy2(media_files[name], path))

        clips = [
            Clip("good-1", video=copy("clip", 1), text="hello", label="happy"),
            Clip("good-2", video=copy("silent", 2), audio=copy("wav", 2), text="no", label="sad"),
            Clip("good-3", video=copy("clip", 3), text="well", label="happy"),
            Clip("good-4", video=copy("clip", 4), text="oh", label="sad"),
            Clip("truncated", video=str(media_files["truncated"]), text="hm", label="sad"),
            Clip("text-named-mp4", video=str(media_files["text"]), text="hm", label="sad"),
            Clip("no-sound", video=str(media_files["silent"]), text="hm", label="happy"),
            Clip("sound-only", audio=str(media_files["wav"]), text="", label="happy"),
            Clip("empty-file", video=str(media_files["empty"]), label="sad"),
            Clip("no-such-file", video="/nowhere/x.mp4", text="hm", label="happy"),
            Clip("unlabelled", video=copy("clip", 5), text="who knows"),
            *more,
        ]
        manifest.write(tmp_path / "clips.parquet", clips)
        keys = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "store")}
        return override(tiny_config, keys | {"media.clips_per_part": 4} | changes)

    return config
