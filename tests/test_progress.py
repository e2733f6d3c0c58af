"""What a user sees of a stage on standard error."""

import pytest

from emo_ray import progress
from emo_ray.reports.table import Table


@pytest.mark.parametrize(("total", "line"), [(1, "1 clip in"), (2, "2 clips in"), (1_000_000, "1000000 clips in")])
def test_a_bar_that_is_no_terminal_ends_with_one_line(capsys, total, line):
    with progress.progress("decoding", total, "clips") as advance:
        advance(total)
    assert f"decoding: {line}" in capsys.readouterr().err


def test_lines_stand_below_the_tables_and_what_is_for_a_page_alone_is_left_out(capsys):
    shown, hidden = Table("Scores", ["a"], [["1"]]), Table("Counts", ["a"], [["2"]], visible_rows=0)
    progress.show([shown, hidden], ["a [note]", "another"])
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[0] == "Scores"
    assert lines[-2:] == ["a [note]", "another"]
    assert "Counts" not in lines
