"""What a user sees of a stage on standard error."""

import pytest

from emo_ray import progress
from emo_ray.reports.table import Table


@pytest.mark.parametrize(("total", "said"), [(1, "1 clip in"), (2, "2 clips in"), (1_000_000, "1000000 clips in")])
def test_a_bar_that_is_no_terminal_ends_with_one_line(capsys, total, said):
    with progress.progress("decoding", total, "clips") as advance:
        advance(total)
    assert f"decoding: {said}" in capsys.readouterr().err


def test_a_report_ends_with_its_notes_and_its_page(capsys, tmp_path):
    shown, hidden = Table("Scores", ["a"], [["1"]]), Table("Counts", ["a"], [["2"]], visible_rows=0)
    progress.show([shown, hidden], ["a [note]"], tmp_path / "page.html")
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[0] == "Scores"
    assert lines[-2:] == ["a [note]", f"pictures and details: {tmp_path / 'page.html'}"]
    assert "Counts" not in lines


def test_tables_may_have_no_page(capsys):
    progress.show([Table("Scores", ["a"], [["1"]])])
    assert "details" not in capsys.readouterr().err
