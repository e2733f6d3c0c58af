"""Faults of the place, for tests: rights that lack, a limit on open files."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534  # a user
UNREADABLE = "/proc/self/mem"  # a regular file of 0 bytes, whose bytes cannot be read: an I/O error


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, for whom no file is forbidden."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@contextmanager
def few_files() -> Iterator[None]:
    """A limit that leaves this process no further file to open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
