"""What a user sees of a stage on standard error."""

import io

import pytest

from emo_ray import progress
from emo_ray.reports.table import Table


@pytest.mark.parametrize(("total", "line"), [(1, "1 clip in"), (2, "2 clips in"), (1_000_000, "1000000 clips in")])
def test_a_bar_that_is_no_terminal_ends_with_one_line(capsys, total, line):
    with progress.progress("decoding", total, "clips") as advance:
        advance(total)
    assert f"decoding: {line}" in capsys.readouterr().err


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_a_log_gets_a_line_every_half_minute_with_share_rate_and_time_left():
    clock, lines = Clock(), []
    stage = progress.Stage("decoding", 300, "clips", clock)
    for second in range(1, 101):
        clock.now_s = 1000.0 + second
        stage.advance(80 if second == 40 else 2 * (second > 40))
        if stage.is_due():
            lines.append((second, stage.line()))
    assert lines == [
        (30, "decoding: 0 of 300 clips (0 %), 30 s so far"),
        (60, "decoding: 120 of 300 clips (40 %), 2.0 clips/s, 90 s left"),
        (90, "decoding: 180 of 300 clips (60 %), 2.0 clips/s, 60 s left"),
    ]
    assert stage.last_line() == "decoding: 200 of 300 clips in 100.0 s"


def test_slow_work_is_counted_by_the_minute_and_shows_its_note():
    clock = Clock()
    stage = progress.Stage("training fusion", 20, "epochs", clock)
    clock.now_s = 1360.0
    stage.advance(3, "WAF 76.1")
    assert stage.line() == "training fusion: 3 of 20 epochs (15 %), 0.5 epochs/min, 34 min left, WAF 76.1"
    assert progress.Stage("looking", 0, "files", clock).state == "0 of 0 files, 0 s so far"


def test_work_that_is_quickly_done_counts_as_all_other_work():
    """So what jobs/status.py says was done is what was done: it was 78 of 126 clips that took 6 ms each."""
    clock = Clock()
    stage = progress.Stage("looking into clips", 100, "clips", clock)
    for _ in range(100):
        clock.now_s += 0.01
        stage.advance(1)
    assert (stage.fields["done"], stage.fields["rate"]) == (100, 100.0)


def test_what_an_earlier_run_did_is_no_rate_of_this_one():
    clock = Clock()
    stage = progress.Stage("searching", 100, "trials", clock)
    stage.advance(60, earlier=True)
    clock.now_s = 1030.0
    assert stage.state == "60 of 100 trials (60 %), 30 s so far"
    stage.advance(10)
    assert stage.state == "70 of 100 trials (70 %), 0.3 trials/s, 90 s left"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (99, "99 s"), (100, "2 min"), (5880, "98 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert progress.duration(seconds) == words


def test_stages_that_run_at_once_share_one_display_on_a_terminal(monkeypatch):
    screen = progress.PlainConsole(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(progress, "console", screen)
    with progress.progress("searching", 4, "trials") as outer:
        with progress.progress("training", 2, "epochs") as inner:
            inner(2)
            (display,) = progress._display
            assert [task.description for task in display.tasks] == ["searching", "training"]
        outer(4)
        assert [task.description for task in display.tasks] == ["searching"]
    assert progress._display == []
    written = screen.file.getvalue()
    assert written.index("training: 2 epochs in") < written.index("searching: 4 trials in")


def test_work_that_fails_has_no_last_line(capsys):
    with pytest.raises(KeyError), progress.progress("decoding", 3, "clips"):
        raise KeyError
    assert "decoding" not in capsys.readouterr().err


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
