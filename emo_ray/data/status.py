"""Statuses: what became of a clip's modality, as one line of text.

`ok`, `ok: note` (usable, and a person should know something), `missing`, `missing: why`, `corrupt: why`.
"""

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

OK = "ok"
MISSING = "missing"
CORRUPT = "corrupt"
NO_FILE = f"{MISSING}: no such file"
UNUSABLE = (MISSING, CORRUPT)


def ok(notes: Iterable[str] = ()) -> str:
    """The status of usable content, with its notes."""
    text = "; ".join(notes)
    return f"{OK}: {text}" if text else OK


def with_note(text: str, note: str) -> str:
    """The status of usable content with one more note."""
    return f"{text}; {note}" if has_note(text) else ok([note])


def is_ok(status: str) -> bool:
    """Whether the content is usable, with or without a note."""
    return kind(status) == OK


def is_broken(status: str) -> bool:
    """Whether media are damaged or gone; what never existed, such as the sound of a silent film, is not broken."""
    return CORRUPT in status or status == NO_FILE


def has_note(status: str) -> bool:
    """Whether usable content has a note."""
    return is_ok(status) and status != OK


def are_ok(statuses: pa.ChunkedArray) -> pa.ChunkedArray:
    """`is_ok` for a column of a table."""
    return pc.match_substring_regex(statuses, f"^{OK}(:|$)")


def kind(status: str) -> str:
    """The first word of a status: ok, missing or corrupt."""
    return status.partition(":")[0]


def kinds(statuses: Iterable[str]) -> Counter[str]:
    """How many statuses there are of each kind."""
    return Counter(map(kind, statuses))
