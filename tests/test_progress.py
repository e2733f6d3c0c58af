"""What a user sees of a stage on standard error."""

import pytest

from emo_ray import progress
from emo_ray.reports.table import Table


@pytest.mark.parametrize(("total", "line"), [(1, "1 clip in"), (2, "2 clips in"), (1_000_000, "1000000 clips in")])
def test_a_bar_that_is_no_terminal_ends_with_one_line(capsys, total, line):
    with progress.progress("decoding", total, "clips") as advance:
        advance(total)
    assert f"decoding: {line}" in capsys.readouterr().err


@pytest.mark.parametrize(("quiet_s", "shown"), [(-1, True), (3600, False)])
def test_late_progress_shows_work_that_takes_long_and_no_other(capsys, quiet_s, shown):
    with progress.late_progress("looking", "files", quiet_s) as report:
        for done in (1, 3):
            report(done, 3)
    assert ("looking: 3 files in" in capsys.readouterr().err) is shown


def test_lines_stand_below_the_tables_and_what_is_for_a_page_alone_is_left_out(capsys):
    shown, hidden = Table("Scores", ["a"], [["1"]]), Table("Counts", ["a"], [["2"]], visible_rows=0)
    progress.show([shown, hidden], ["a [note]", "another"])
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[0] == "Scores"
    assert lines[-2:] == ["a [note]", "another"]
    assert "Counts" not in lines


def test_words_from_elsewhere_give_the_terminal_no_orders(capsys):
    hostile = "\x1b]0;title\x07 \x1b[2J\x9b31m \u202efdp.exe \x00 a\tb"
    progress.say(hostile)
    progress.show([Table(hostile, [hostile], [[hostile]], note=hostile)], [hostile])
    with progress.progress(hostile, 1, "clips") as advance:
        advance(1, note=hostile)
    written = capsys.readouterr().err
    assert not set(written) & {"\x1b", "\x07", "\x9b", "\u202e", "\x00"}
    assert r"\x1b[2J" in written
    assert written.count(r"\u202e") >= 5
    progress.say("weiß 我 é 👩‍👩‍👧\nand a second line")
    assert capsys.readouterr().err == "weiß 我 é 👩‍👩‍👧\nand a second line\n"


def test_a_name_that_looks_like_the_code_of_an_emoji_stays_as_it_is(capsys):
    progress.say("found clips/:smile:/a.mp4")
    progress.show([Table(":smile:", ["a"], [[":smile:"]])])
    assert capsys.readouterr().err.count(":smile:") == 3
