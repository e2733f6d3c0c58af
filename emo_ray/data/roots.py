"""Which files a corpus may name: those inside its root.

The root is `data.root`, or else the folder that the table lies in, or the folder that is the corpus. What leads out of
it (`..`, absolute paths, links) is refused unless `data.outside_root` is set, and so are addresses of storage whose
scheme `data.schemes` does not name. Whoever wrote a manifest may not be who reads it: it could name private files and
buckets of the reader, or send his requests to a host of the writer's.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from emo_ray import bucket
from emo_ray.config.data_settings import Data
from emo_ray.config.job_settings import without_credentials
from emo_ray.data.folders import printable

_SHOWN = 3  # problems in one message


def root_of(data: Data) -> Path:
    """The folder that relative paths of the corpus start from, and that its files lie in."""
    manifest = Path(data.manifest or "")
    return Path(data.root) if data.root else manifest if manifest.is_dir() else manifest.parent


def resolve(path: str, root: Path) -> str:
    """A media path as an absolute path or a URI; a URI of a local file becomes its path.

    A path below a root that stands for a folder in a bucket becomes a URI.
    """
    if "://" not in path:
        absolute = Path(os.path.normpath(root / path)) if bucket.address_of(root) else (root / path).absolute()
        return bucket.address_of(absolute) or str(absolute)
    scheme, _, rest = path.partition("://")
    host, slash, local_path = rest.partition("/")
    is_local = scheme.lower() == "file" and host in ("", "localhost")
    return unquote(slash + local_path) if is_local else path


def check_inside(files: Mapping[str, str], root: Path, data: Data, where: str) -> None:
    """Raises ValueError where a file, resolved and named by where the corpus names it, may not be read.

    Paths are compared with all links resolved. Whether the files exist makes no difference.
    """
    real_root, root_address = os.path.realpath(root), bucket.address_of(root)
    real_folders: dict[str, str] = {}  # few folders hold many files, and a link costs a call for each part of its path
    problems = []
    for place, path in files.items():
        if root_address and _is_below(path, root_address):
            continue
        if "://" in path:
            problem = _address_problem(path, data)
        elif data.outside_root or Path(_real_path(path, real_folders)).is_relative_to(real_root):
            continue
        else:
            problem = f"{printable(path)}, which leads out of {printable(str(root.absolute()))}, expected a file in it"
        if problem:
            problems.append(f"{place}: found {problem}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{where}: {'; '.join(problems[:_SHOWN])}{more}. If you know all that this corpus names, set "
            "data.outside_root=true or, for storage, data.schemes; or name the folder that holds it in data.root"
        )


def _is_below(address: str, root_address: str) -> bool:
    """Whether an address is that of an object below another one, without options, and without steps that lead out."""
    is_plain = not {"?", "#"} & set(address) and ".." not in unquote(address).split("/")
    return is_plain and address.startswith(f"{root_address}/")


def _address_problem(address: str, data: Data) -> str | None:
    """What is wrong with a URI; None where it may be read."""
    shown = printable(without_credentials(address))
    scheme = address.partition("://")[0].lower()
    if scheme not in data.schemes:
        return f"{shown}, expected a scheme of data.schemes={list(data.schemes)}"
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{shown}, expected an address such as {scheme}://BUCKET/FILE"
    if not data.outside_root and (parts.query or "@" in parts.netloc):
        return f"{shown} with a login or options, which may lead to any host, expected {scheme}://BUCKET/FILE alone"
    return None


def _real_path(path: str, real_folders: dict[str, str]) -> str:
    """`os.path.realpath` that looks at each folder once; a name that no file can have is taken as it is."""
    if "\0" in path:
        return os.path.normpath(path)
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    if folder not in real_folders:
        real_folders[folder] = os.path.realpath(folder)
    real = os.path.join(real_folders[folder], name)
    return os.path.realpath(real) if os.path.islink(real) else real
