"""Arrow's file systems of buckets, that of S3 with more patience where requests fail."""

from collections.abc import Callable
from typing import Any

from pyarrow import fs

_TRIES = 10  # of a request by Arrow's library, which take some 25 s


def patient(address: str) -> fs.FileSystem:
    """The file system of a bucket's address. Host, region and credentials come from the environment.

    Raises OSError as the bucket's region is asked for.
    """
    filesystem, _ = fs.FileSystem.from_uri(address)
    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem
    _, (options,) = filesystem.__reduce__()  # the only way to learn what it took from the environment
    return _s3(options)


class _S3(fs.S3FileSystem):
    """S3 that is made anew by `_s3` in other processes, such as those of Ray: Arrow forgets how often to try."""

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], fs.S3FileSystem], tuple[dict[str, Any]]]:
        _, (options,) = super().__reduce__()
        return _s3, (options,)


def _s3(options: dict[str, Any]) -> _S3:
    """S3 with these options, which tries failing requests for seconds: by default it gives up at once, or in minutes.

    A small object is one request, and not three, if opening is delayed. Arrow 25 crashes within minutes where requests
    fail while it writes in the background. Of AWS's two strategies this one tries every request as often. The other
    pays for tries from an account, which Arrow never fills again: after 100 tries in all it would try no more.
    """
    options = {name: value for name, value in options.items() if value and name != "proxy_options"}
    changes = {"allow_delayed_open": True, "background_writes": False}
    return _S3(**options | changes, retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=_TRIES))
