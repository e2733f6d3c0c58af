"""Chaos: a fault that ends as it should passes, any other fails, and the page gets the table."""

import json
import signal

import pytest

from emo_ray.config import override
from emo_ray.experiments.chaos import chaos, contents
from emo_ray.experiments.chaos.faults import FAULTS, Fault, Outcome, Unexpected, Unmakeable, chosen
from emo_ray.experiments.chaos.running import Ended, refused, stopped
from emo_ray.experiments.chaos.workshop import Workshop


class Idle(Workshop):
    """A workshop in which nothing is made."""

    def __init__(self, folder):
        self.folder = folder

    def clear(self, name):
        pass

    def __exit__(self, *_):
        pass


def ended(status=2, answer="", words="error: found a, expected b"):
    return Ended(status, answer, words, seconds=1.0, peak_mb=100.0)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (ended(status=1), "exit 1"),
        (ended(answer="/path"), "standard output"),
        (ended(words="Traceback\nerror: found a"), "traceback"),
        (ended(words="error: found a\nb\nc"), "3 lines"),
        (ended(words="error: found c"), "no 'found a'"),
    ],
)
def test_an_ending_of_another_kind_is_unexpected(wrong, match):
    assert refused(ended(), "found a") == "exit 2, 1 line"
    with pytest.raises(Unexpected, match=match):
        refused(wrong, "found a")


def test_a_stopped_job_ends_with_one_line_and_the_status_of_its_signal():
    words = "decoding: 3 clips in 0.8 s\nstopped by Ctrl-C: what is finished is kept in /store"
    assert stopped(ended(130, words=words), signal.SIGINT) == "exit 130, 1 line"
    with pytest.raises(Unexpected):
        stopped(ended(130, words=f"{words}\nmore"), signal.SIGINT)


def test_stores_are_equal_but_for_times_locks_and_pages(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "meta.json").write_text(json.dumps({"waf": 0.5, "rows": [{"clips_per_s": number}]}))
        (folder / "part.parquet").write_bytes(b"same")
        (folder / f".{number}.lock").touch()
        (folder / "sweep.html").write_text(str(number))
    first, second = map(contents.contents, folders)
    assert contents.differences(first, second) == ""
    (folders[1] / "part.parquet").write_bytes(b"other")
    (folders[1] / "more.json").write_text("{}")
    assert contents.differences(first, contents.contents(folders[1])) == (
        "has more more.json (1 in all); differs in part.parquet (1 in all)"
    )
    assert not contents.unfinished(folders[0])
    (folders[0] / f".part.parquet.{'0' * 32}.tmp").touch()
    assert len(contents.unfinished(folders[0])) == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "passed"), (Unexpected("x"), "failed"), (OSError("x"), "failed"), (Unmakeable("x"), "skipped")],
)
def test_a_fault_has_an_outcome_whatever_comes_of_it(error, state, tmp_path):
    def make(workshop):
        if error:
            raise error
        return "x"

    outcome = chaos.make_one(Fault("name", "kind", "expected", make), Idle(tmp_path))
    assert (outcome.state, outcome.name, outcome.outcome[-1]) == (state, "name", "x")


def test_faults_are_chosen_by_name_kind_or_pattern():
    assert len(chosen(())) == len(FAULTS)
    assert [fault.name for fault in chosen(("SIGKILL train",))] == ["SIGKILL train"]
    assert {fault.kind for fault in chosen(("bit rot",))} == {"bit rot"}
    assert len(chosen(("SIGKILL*", "SIGINT*"))) == 20
    with pytest.raises(ValueError, match=r"chaos\.only: found 'nothing like it'"):
        chosen(("nothing like it",))


def test_the_page_gets_the_table_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{chaos.BEGIN}\nold\n{chaos.END}\nafter\n")
    outcome = Outcome("a fault", "kind", "exit 2", "exit 2 | said", 3.0, "passed")
    chaos.write_page(page, chaos.as_markdown([outcome], "summary"))
    text = page.read_text()
    assert text.startswith(f"before\n{chaos.BEGIN}\n\nsummary\n")
    assert text.endswith(f"{chaos.END}\nafter\n")
    assert "a fault | exit 2 | exit 2 \\| said | 3 | passed" in text
    assert "old" not in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place for a table"):
        chaos.write_page(page, "")


@pytest.mark.slow  # a workshop with three jobs of its own
def test_a_real_fault(tiny_config, tmp_path):
    config = override(tiny_config, {"store.root": str(tmp_path), "chaos.only": ["labels changed by hand"]})
    result = chaos.chaos(config)
    assert [fault["state"] for fault in result.content["faults"]] == ["passed"]
    assert "labels changed by hand | exit 2" in (result.path / chaos.MARKDOWN).read_text()
