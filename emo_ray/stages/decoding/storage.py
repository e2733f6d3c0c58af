"""Whether the storage that clips lie in answers: tried once, before anything waits for it clip by clip."""

import subprocess
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from emo_ray.data.manifest import Clip

_LIMIT_S = 20.0  # without a network gs is tried for a quarter of an hour, for every clip
_UNKNOWN = 3  # exit status of the child: no file system has such addresses
_LONGEST_REASON = 300  # characters
# In a process of its own: it can be ended, and Google's library aborts the process where credentials are missing.
_TRY = f"""
import sys
import pyarrow as pa
from pyarrow import fs
try:
    filesystem, path = fs.FileSystem.from_uri(sys.argv[1])
    filesystem.get_file_info(path)
except pa.ArrowInvalid:
    sys.exit({_UNKNOWN})
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


def check_storage(clips: Iterable[Clip]) -> None:
    """Try one file of every bucket that the clips name. Raises ValueError where one does not answer within seconds.

    A file that is not there is no error, and neither is an address that no storage has: its clip's status will say so.
    """
    source_of: dict[str, str] = {}  # bucket -> the first file in it
    for source in (path for clip in clips for path in (clip.video, clip.audio) if path is not None and "://" in path):
        try:
            parts = urlsplit(source)
        except ValueError:  # no address at all
            continue
        if parts.scheme != "file":
            source_of.setdefault(f"{parts.scheme}://{parts.netloc}", source)
    for bucket, source in source_of.items():
        if (reason := _failure(source)) is not None:
            raise ValueError(
                f"{bucket}: found storage that cannot be used ({reason[:_LONGEST_REASON]}), expected the clips in it, "
                f"such as {source.partition('?')[0]}: see to the network, the bucket and its credentials"
            )


def _failure(source: str) -> str | None:
    """Why the storage of a file does not answer; None where it does."""
    command = [sys.executable, "-c", _TRY, source]
    try:
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"no answer within {_LIMIT_S:g} s"
    if child.returncode in (0, _UNKNOWN):
        return None
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"its library ended the process with {child.returncode}"
