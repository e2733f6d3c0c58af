"""Statuses: which of them mean that content is usable."""

import pyarrow as pa
import pytest

from emo_ray.data import status


@pytest.mark.parametrize(
    ("text", "usable", "noted", "kind"),
    [
        ("ok", True, False, "ok"),
        ("ok: 1 of 188 packets unreadable", True, True, "ok"),
        ("missing", False, False, "missing"),
        ("missing: no such file", False, False, "missing"),
        ("corrupt: ok is not what this is", False, False, "corrupt"),
        ("okay", False, False, "okay"),
    ],
)
def test_a_status_says_whether_content_is_usable(text, usable, noted, kind):
    assert status.is_ok(text) == usable
    assert status.has_note(text) == noted
    assert status.kind(text) == kind
    assert status.are_ok(pa.chunked_array([[text]])).to_pylist() == [usable]


def test_notes_become_part_of_the_status():
    assert status.ok() == "ok"
    assert status.ok(["first", "second"]) == "ok: first; second"
    assert status.with_note(status.ok(), "first") == "ok: first"
    assert status.with_note("ok: first", "second") == status.ok(["first", "second"])
