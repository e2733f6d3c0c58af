"""What a fault is: a function that makes it on a real job, and checks how the job ends."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

State = Literal["passed", "failed", "skipped"]


class Unexpected(Exception):
    """A job ended otherwise than it should."""


class Unmakeable(Exception):
    """The fault cannot be made on this machine."""


@dataclass(frozen=True)
class Fault:
    """A fault by name, the kind of trouble it stands for, and how a job should end with it."""

    name: str
    kind: str
    expected: str
    make: Callable[..., str]  # takes a Workshop, and returns how the job ended; raises Unexpected and Unmakeable


@dataclass(frozen=True)
class Outcome:
    """How a fault ended."""

    name: str
    kind: str
    expected: str
    outcome: str
    seconds: float
    state: State


FAULTS: dict[str, Fault] = {}


def fault(kind: str, expected: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a function as the fault of its name."""

    def register(make: Callable[..., str]) -> Callable[..., str]:
        add(Fault(make.__name__.replace("_", " "), kind, expected, make))
        return make

    return register


def add(entry: Fault) -> None:
    """Register a fault. Raises KeyError for a name that is taken."""
    if entry.name in FAULTS:
        raise KeyError(entry.name)
    FAULTS[entry.name] = entry


def chosen(patterns: tuple[str, ...]) -> list[Fault]:
    """The faults whose name or kind fits one of the patterns, such as "SIGKILL*"; all of them without patterns.

    Raises ValueError for a pattern that fits none.
    """
    if not patterns:
        return list(FAULTS.values())
    for pattern in patterns:
        if not any(_fits(entry, pattern) for entry in FAULTS.values()):
            raise ValueError(f"chaos.only: found {pattern!r}, expected one of {', '.join(FAULTS)}")
    return [entry for entry in FAULTS.values() if any(_fits(entry, pattern) for pattern in patterns)]


def _fits(entry: Fault, pattern: str) -> bool:
    return fnmatch(entry.name, pattern) or fnmatch(entry.kind, pattern)


def check(holds: object, description: str) -> None:
    """Raises Unexpected with the description of what is there instead."""
    if not holds:
        raise Unexpected(description)
