"""What a config names in buckets, fetched to this machine before a job begins, but for the media of a corpus."""

from pathlib import Path
from typing import Any

from emo_ray import addresses, bucket
from emo_ray.config import Config, declarations, flatten, override
from emo_ray.data.suffixes import MEDIA_SUFFIXES, suffix

_CORPUS = ("data.manifest", "data.root")


def cache_folder(config: Config) -> Path:
    """The folder in which copies from buckets lie, on every machine."""
    return Path(config.store.cache).expanduser().absolute()


def fetched(config: Config) -> Config:
    """The config with paths on this machine in the place of addresses; what they name is here, but for media.

    Raises ValueError for an address at which nothing is.
    """
    declared = declarations()
    changes: dict[str, Any] = {}
    for key, value in flatten(config).items():
        if value and (declared[key].path or key in _CORPUS):
            paths = [value] if isinstance(value, str) else list(value)
            if any(map(addresses.is_address, paths)):
                local = [_fetched(config, key, path) for path in paths]
                changes[key] = local[0] if isinstance(value, str) else local
    return override(config, changes)


def _fetched(config: Config, key: str, address: str) -> str:
    if not addresses.is_address(address):
        return address
    addresses.check_address(address)
    path = bucket.local_path(address, cache_folder(config))
    if key != "data.root":
        if path.is_file():  # of an earlier job
            bucket.fetch_anew(path)
        if not bucket.exists(path):
            raise ValueError(f"{key}: found nothing at {address}, expected a file or a folder: correct the address")
        bucket.fetch_all(path, lambda name: key != "data.manifest" or suffix(name) not in MEDIA_SUFFIXES)
        if not path.exists():  # a folder of media alone
            path.mkdir(parents=True)
    return str(path)
