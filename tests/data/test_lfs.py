"""Git LFS pointers are told from other files, whatever lies there."""

import os

import pytest

from emo_ray.data import lfs

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 414429\n"


def test_a_pointer_is_one_whatever_it_stands_for(tmp_path):
    for i, name in enumerate(("clip.mp4", "clips.csv", "no suffix")):
        (tmp_path / name).write_text(POINTER.format(f"{i:064x}"))
        assert lfs.is_pointer(tmp_path / name)
        assert lfs.is_pointer(str(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs", b"video,label\na.mp4,happy\n", bytes(range(256)), POINTER.encode() + b"x" * 1024],
)
def test_other_files_are_none(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not lfs.is_pointer(tmp_path / "file")


def test_what_is_no_regular_file_is_none_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "circle", tmp_path / "circle")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "circle", tmp_path / "nowhere", "\0", "s3://bucket/clip.mp4"):
        assert not lfs.is_pointer(path)
