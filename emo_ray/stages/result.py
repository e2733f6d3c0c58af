"""What every job ends with: where its result lies, what it holds, and what a person is shown of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_ray.progress import show
from emo_ray.reports.table import Table


@dataclass(frozen=True)
class Result:
    """The folder of a result and its content, which is what `--json` prints: plain values alone."""

    path: Path
    content: dict[str, Any]
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()  # said below the tables
    status: int = 0  # exit status of the job

    def show(self) -> None:
        """Print the tables and lines for people."""
        show(self.tables, self.lines)
