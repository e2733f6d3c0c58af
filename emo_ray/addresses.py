"""Addresses: of places in a bucket (s3://, gs://), checked without pyarrow, and of ports on this machine."""

import re
import socket

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


def listening_problem(host: str, port: int) -> str | None:
    """Why no server can start on a port of this machine, in the system's words; None where one can.

    A port is in use also where its server would share it (SO_REUSEPORT).
    """
    try:
        kind, _, _, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended is no hindrance
            probe.bind(place)
    except OSError as error:
        return error.strerror or str(error)
    return None
