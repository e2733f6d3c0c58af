"""What lies below a folder: each real folder once, and nothing that is no file or that no table could name."""

import os
import socket
from pathlib import Path

import pytest

from emo_ray.data import folders
from emo_ray.data.folders import first_of, is_inside, list_folder, printable

ADVICE = "copy them"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_bytes_name(folder: Path, name: bytes) -> str:
    """An empty file of this name; skips the test where the file system refuses it."""
    try:
        with open(os.path.join(os.fsencode(folder), name), "wb"):
            return os.fsdecode(name)
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 names alone")


def test_files_are_sorted_relative_and_not_hidden(tmp_path):
    touch(tmp_path, "b/c/x.mp4", "a.mp4", "b-d/y.mp4", "._a.mp4", ".git/x.mp4", "b/.x", "no suffix")
    assert list_folder(tmp_path, ADVICE).files == ["a.mp4", "b-d/y.mp4", "b/c/x.mp4", "no suffix"]


def test_folders_linked_to_each_other_are_visited_once(tmp_path):
    names = "abcdef"
    touch(tmp_path, *(f"{name}/{name}.mp4" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    listing = list_folder(tmp_path, ADVICE)
    assert listing.files == [f"{name}/{name}.mp4" for name in names]
    assert len(listing.left_out[folders.READ_ALREADY]) == 36


def test_a_folder_keeps_its_place_although_a_link_comes_first(tmp_path):
    touch(tmp_path, "corpus/real/x.mp4", "disk/y.mp4")
    (tmp_path / "corpus" / "alias").symlink_to("real")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "disk")
    listing = list_folder(tmp_path / "corpus", ADVICE, outside=True)
    assert listing.files == ["linked/y.mp4", "real/x.mp4"]
    assert listing.left_out == {folders.READ_ALREADY: ["alias"]}


def test_links_to_folders_above_are_not_followed(tmp_path):
    touch(tmp_path, "corpus/a.mp4", "private/diary.mp4")
    (tmp_path / "corpus" / "up").symlink_to("..")
    assert list_folder(tmp_path / "corpus", ADVICE).left_out == {folders.ABOVE: ["up"]}
    assert list_folder(tmp_path / "corpus", ADVICE).files == ["a.mp4"]


@pytest.mark.parametrize("target", ["private/diary.mp4", "private", "private/gone.mp4", "corpus2/a.mp4"])
def test_links_that_lead_out_are_an_error_unless_they_are_allowed(target, tmp_path):
    touch(tmp_path, "corpus/x/a.mp4", "private/diary.mp4", "corpus2/a.mp4")
    (tmp_path / "corpus" / "x" / "link").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"corpus: found links .*\(x/link\), expected .*copy them"):
        list_folder(tmp_path / "corpus", ADVICE)
    files = list_folder(tmp_path / "corpus", ADVICE, outside=True).files
    assert files == ["x/a.mp4", "x/link/diary.mp4" if target == "private" else "x/link"]


@pytest.mark.parametrize("target", ["gone.wav", "a.wav"])
def test_a_link_that_leads_nowhere_is_a_file(target, tmp_path):
    (tmp_path / "a.wav").symlink_to(target)
    assert list_folder(tmp_path, ADVICE).files == ["a.wav"]


def test_pipes_sockets_and_devices_are_left_out(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / "pipe.ts")
    (tmp_path / "device.mp4").symlink_to(os.devnull)  # never opened, so it does not matter that it lies outside
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        listing = list_folder(tmp_path, ADVICE)
    assert listing.files == listing.media == []
    assert listing.left_out == {folders.NOT_A_FILE: ["device.mp4", "pipe.ts", "pipe.wav", "socket.txt"]}


@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9.wav", r"caf\xe9.wav"), ("你好.wav".encode("gbk"), r"\xc4")])
def test_names_that_are_not_utf_8_are_left_out(name, shown, tmp_path):
    write_bytes_name(tmp_path, name)
    listing = list_folder(touch(tmp_path, "é.wav"), ADVICE)
    assert listing.files == ["é.wav"]
    ((reason, (left_out,)),) = listing.left_out.items()
    assert reason == folders.NOT_UTF_8
    assert left_out.startswith(shown)
    assert left_out.isprintable()


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "open/a.wav", "locked/b.wav")
    scandir = os.scandir

    def refusing(folder):  # permissions do not bind root, who runs many test suites
        if Path(folder).name == refused:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = "locked"
    listing = list_folder(tmp_path, ADVICE)
    assert (listing.files, listing.left_out) == (["open/a.wav"], {folders.UNREADABLE: ["locked"]})
    refused = tmp_path.name
    with pytest.raises(ValueError, match=f"{tmp_path.name}: .*Permission denied"):
        list_folder(tmp_path, ADVICE)


def test_inside_means_with_all_links_resolved(tmp_path):
    touch(tmp_path, "corpus/a.txt", "corpus2/b.txt")
    (tmp_path / "corpus" / "b.txt").symlink_to("../corpus2/b.txt")
    (tmp_path / "corpus" / "c.txt").symlink_to("a.txt")
    (tmp_path / "alias").symlink_to("corpus")
    assert [is_inside(tmp_path / "alias" / name, tmp_path / "corpus") for name in ("a.txt", "b.txt", "c.txt")] == [
        True,
        False,
        True,
    ]


def test_names_in_messages_are_printable():
    assert printable("a\nb\x1b[2J\udce9\ud800é 你.wav") == r"a\nb\x1b[2J\xe9\ud800é 你.wav"
    assert first_of(list("abcdefg")) == "a, b, c, d, e and 2 more"
