"""Addresses of places in a bucket (s3://, gs://): which texts are one. Settings check theirs without pyarrow."""

import re

SCHEMES = ("s3", "gs")


def is_address(text: str) -> bool:
    """Whether a text is the address of something in a bucket."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def check_address(path: str) -> None:
    """Raises ValueError for a text with :// that is not the address of a folder or file in a bucket."""
    if "://" in path and (not is_address(path) or re.search(r"[?@#]", path) or not path.partition("://")[2].strip("/")):
        shown = path.partition("://")[0] if re.search(r"[?@]", path) else path
        raise ValueError(
            f"found {shown!r}, expected an address such as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER without login and "
            "options, which come from the environment (docs/cluster.md), or a folder: other storage is mounted first"
        )
