"""chaos: every fault that a job should survive or refuse, made on real jobs, and how each of them ends."""

import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from emo_ray import cluster, durable, store
from emo_ray.config import Config
from emo_ray.experiments.chaos import damage, kills, node_kills, services, space, strangers
from emo_ray.experiments.chaos.faults import Fault, Outcome, State, Unexpected, Unmakeable, chosen
from emo_ray.experiments.chaos.workshop import Workshop
from emo_ray.progress import progress, say
from emo_ray.reports.table import Cell, Style, Table, markdown
from emo_ray.stages.result import Result

CONTENT, MARKDOWN = "chaos.json", "chaos.md"
BEGIN, END = "<!-- begin of what jobs/chaos.py wrote -->", "<!-- end of what jobs/chaos.py wrote -->"
THEMES = (kills, node_kills, space, damage, services, strangers)  # modules that register faults
_STYLES: dict[State, Style] = {"passed": "good", "failed": "bad", "skipped": ""}


def chaos(config: Config) -> Result:
    """Make the faults of `chaos.only`, all of them by default, one after another.

    Raises ValueError where one ended otherwise than it should, after all of them are made and written down.
    """
    selected = chosen(config.chaos.only)
    root = cluster.store_root(config)
    begun_s = time.monotonic()
    outcomes = _make(selected, config.chaos.seed)
    seconds = time.monotonic() - begun_s
    content = {
        "seed": config.chaos.seed,
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
        "seconds": round(seconds),
        "faults": [asdict(outcome) for outcome in outcomes],
    }
    folder = root / "chaos" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    table = outcome_table(outcomes)
    summary = _summary(outcomes, seconds, config.chaos.seed)

    def fill(temporary: Path) -> None:
        durable.write_json(temporary / CONTENT, content)
        durable.write_text(temporary / MARKDOWN, as_markdown(outcomes, summary))

    store.artefact(folder, {"kind": "chaos"}, fill)
    if config.chaos.page and not config.chaos.only:
        write_page(Path(config.chaos.page), (folder / MARKDOWN).read_text(encoding="utf-8"))
    result = Result(folder, content, [table], [summary])
    failed = [outcome.name for outcome in outcomes if outcome.state == "failed"]
    if failed:
        result.show()
        raise ValueError(
            f"found {len(failed)} of {len(outcomes)} faults that ended otherwise than they should "
            f"({', '.join(failed)}), expected none: see {folder / MARKDOWN}"
        )
    return result


def as_markdown(outcomes: Sequence[Outcome], summary: str) -> str:
    """The summary and the table for the docs."""
    return f"{summary}\n\n{markdown(outcome_table(outcomes))}\n"


def write_page(page: Path, written: str) -> None:
    """Put what a run wrote between the marks of a page. Raises ValueError for a page without the marks."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page}: found no place for a table, expected lines {BEGIN!r} and {END!r}")
    before, _, rest = text.partition(BEGIN)
    durable.write_text(page, f"{before}{BEGIN}\n\n{written}\n{END}{rest.partition(END)[2]}")


def _make(selected: Sequence[Fault], seed: int) -> list[Outcome]:
    outcomes = []
    with Workshop(seed) as workshop, progress("making faults", len(selected), "faults") as advance:
        for fault in selected:
            outcome = make_one(fault, workshop)
            say(f"{outcome.state}: {outcome.name} ({outcome.seconds:.0f} s): {outcome.outcome}")
            outcomes.append(outcome)
            advance(1)
    return outcomes


def make_one(fault: Fault, workshop: Workshop) -> Outcome:
    """Make a fault, whatever comes of it: an error in making it counts as a failure."""
    workshop.clear(fault.name)
    begun_s = time.monotonic()
    state: State = "passed"
    try:
        words = fault.make(workshop)
    except Unmakeable as error:
        words, state = f"not made: {error}", "skipped"
    except (Unexpected, OSError, ValueError, LookupError, StopIteration) as error:
        words, state = f"{'' if isinstance(error, Unexpected) else type(error).__name__ + ': '}{error}", "failed"
    words = words.replace(str(workshop.folder), "TEMP")
    return Outcome(fault.name, fault.kind, fault.expected, words, round(time.monotonic() - begun_s, 1), state)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Fault by outcome by seconds."""
    header = ["fault", "expected", "outcome", "seconds", ""]
    rows: list[list[str | Cell]] = [
        [
            outcome.name,
            outcome.expected,
            outcome.outcome,
            f"{outcome.seconds:.0f}",
            Cell(outcome.state, _STYLES[outcome.state]),
        ]
        for outcome in outcomes
    ]
    return Table("Faults and how jobs end", header, rows, words=(0, 1, 2, 4))


def _summary(outcomes: Sequence[Outcome], seconds: float, seed: int) -> str:
    count = Counter(outcome.state for outcome in outcomes)
    return (
        f"{count['passed']} of {len(outcomes)} faults ended as expected, {count['failed']} otherwise, "
        f"{count['skipped']} could not be made on this machine; {seconds / 60:.0f} minutes, chaos.seed={seed}."
    )
