"""Git LFS pointers: small text files that stand in the place of files which `git lfs pull` would fetch."""

import os

# The second is how pointers started before version 1.0.
_STARTS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_MOST_BYTES = 1024  # the specification says that pointers are smaller
ADVICE = "fetch the files with git lfs pull"


def is_pointer(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is a pointer; False where there is no such file, or it cannot be read."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) >= _MOST_BYTES:
            return False
        with open(path, "rb") as stream:
            return is_pointer_text(stream.read(_MOST_BYTES))
    except (OSError, ValueError):  # ValueError: a null character in the name
        return False


def is_pointer_text(content: bytes) -> bool:
    """Whether a file that begins with this is a pointer."""
    return content.startswith(_STARTS)
