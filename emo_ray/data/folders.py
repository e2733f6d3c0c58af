"""What lies below a folder, whatever lies there: links in circles, pipes, odd names.

Nothing is opened for it but `.ts` and `.mts` files. What is left out is named, so that notes can say so.
"""

import errno
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from emo_ray import bucket, trouble
from emo_ray.data.suffixes import is_media

_SHOWN = 5  # names in one message
_FORBIDDEN = {errno.EACCES, errno.EPERM}  # as lost+found is on many disks: left out, and said
_FILE, _FOLDER, _LINK = "file", "folder", "link to a folder"
# Why an entry is left out.
NOT_UTF_8 = "names that are not UTF-8, which no table can hold (rename them)"
OUTSIDE = "links that lead out of the folder"
NOT_A_FILE = "pipes, sockets or devices, which are never opened"
READ_ALREADY = "links to folders that are read already"
ABOVE = "links to folders that this folder lies in"
UNREADABLE = "folders that cannot be read"


@dataclass
class Listing:
    """The files below a folder as sorted posix paths relative to it, and what was left out, by reason.

    Every file is a regular one, or a link that leads nowhere: a clip of such a link is missing. Names that were left
    out are printable ones.
    """

    path: Path
    outside: bool = False  # links that lead out of the folder are followed
    files: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def media(self) -> list[str]:
        """The files that are taken for media, by their suffix."""
        return [name for name in self.files if is_media(name, self.path)]

    def may_follow(self, name: str) -> bool:
        """Whether a link may be followed."""
        return self.outside or is_inside(self.path / name, self.path)

    def leave_out(self, reason: str, name: str) -> None:
        """Note that an entry is left out."""
        self.left_out.setdefault(reason, []).append(printable(name))


def list_folder(path: Path, advice: str, outside: bool = False) -> Listing:
    """All files below a folder, but hidden ones. Every real folder is visited once, whatever links lead to it.

    Folders that lie there come before those that links lead to, so a link never takes a folder's place. Nothing depends
    on the order in which the file system lists its entries. Raises PlaceTrouble where storage or machine do not let any
    folder be read, ValueError where the folder itself cannot be, and, with the advice, where links lead out of it and
    `outside` does not allow it: those are not followed.

    A folder that stands for one in a bucket costs one listing, and no file of it need be here.
    """
    listing = Listing(path, outside)
    if bucket.address_of(path):
        listing.files = sorted(bucket.files(path, recursive=True))
        return listing
    folders = deque([""])
    links: deque[str] = deque()
    visited: set[tuple[int, int]] = set()
    while folders or links:
        is_link = not folders
        prefix = links.popleft() if is_link else folders.popleft()
        try:
            stat = (path / prefix).stat()
            identity = (stat.st_dev, stat.st_ino)
            if identity in visited:
                listing.leave_out(READ_ALREADY, prefix)
            elif is_link and is_inside(path, path / prefix):
                listing.leave_out(ABOVE, prefix)
            elif is_link and not listing.may_follow(prefix):
                listing.leave_out(OUTSIDE, prefix)
            else:
                visited.add(identity)
                _sort_entries(path / prefix, prefix, listing, {_FOLDER: folders, _LINK: links, _FILE: listing.files})
        except OSError as error:
            if error.errno not in _FORBIDDEN:
                trouble.raise_of_place(error, path / prefix)
            if not prefix:
                raise ValueError(f"{path}: found a folder that cannot be read: {error.strerror}") from error
            listing.leave_out(UNREADABLE, prefix)
    if links_out := listing.left_out.get(OUTSIDE):
        raise ValueError(
            f"{path}: found {OUTSIDE} ({first_of(links_out)}), expected all files in the folder itself: {advice}"
        )
    listing.files.sort()
    return listing


def _sort_entries(folder: Path, prefix: str, listing: Listing, names_of: dict[str, deque[str] | list[str]]) -> None:
    """Append the relative path of each entry of a folder to the names of its kind, or leave it out."""
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        if entry.name.startswith("."):
            continue
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        kind = _kind(entry)
        if not is_unicode(entry.name):
            listing.leave_out(NOT_UTF_8, name)
        elif kind is None:
            listing.leave_out(NOT_A_FILE, name)
        elif kind is _FILE and entry.is_symlink() and not listing.may_follow(name):
            listing.leave_out(OUTSIDE, name)
        else:
            names_of[kind].append(name)


def _kind(entry: os.DirEntry) -> str | None:
    """What an entry is; a link that leads nowhere counts as a file. None for pipes, sockets and devices."""
    try:
        if entry.is_dir():
            return _LINK if entry.is_symlink() else _FOLDER
        return _FILE if entry.is_file() or not os.path.exists(entry.path) else None
    except OSError:  # a link to itself
        return _FILE


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, with all links resolved, lies in a folder or is that folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def is_unicode(name: str) -> bool:
    """False for names whose bytes are not UTF-8: Python holds these bytes as surrogates, which nothing can store."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def printable(name: str) -> str:
    """A name for messages: bytes that are not UTF-8, line breaks and control characters as escapes."""
    return "".join(char if char.isprintable() else _escape(char) for char in name)


def _escape(char: str) -> str:
    is_byte = "\udc80" <= char <= "\udcff"  # what os.fsdecode makes of a byte that is not UTF-8
    return f"\\x{ord(char) - 0xDC00:02x}" if is_byte else char.encode("unicode_escape").decode()


def first_of(names: Sequence[str]) -> str:
    """The first few of several names, printable, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more
