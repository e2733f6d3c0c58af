"""Draws docs/grafana.json from a Prometheus that collects a cluster's gauges, without Grafana.

`python tests/board_picture.py http://127.0.0.1:9090 MINUTES PICTURE` draws the last minutes. Each panel's query goes to
Prometheus as Grafana would send it, so a name or label that does not exist leaves a panel empty, which is an error.
"""

import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

BOARD = Path(__file__).resolve().parents[1] / "docs" / "grafana.json"
_STEP_S = 5


def series(prometheus: str, target: dict[str, Any], minutes: float) -> dict[str, list[tuple[float, float]]]:
    """The (second, value) pairs of each line that a panel's query gives, by what the legend calls it."""
    now_s = time.time()
    asked = {
        "query": target["expr"].replace("$job", ".*"),
        "start": now_s - 60 * minutes,
        "end": now_s,
        "step": _STEP_S,
    }
    with urlopen(f"{prometheus}/api/v1/query_range?{urlencode(asked)}") as answer:
        lines = json.load(answer)["data"]["result"]
    return {_legend(target, line["metric"]): [(float(s), float(v)) for s, v in line["values"]] for line in lines}


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels[match[1]], target["legendFormat"])


def draw(prometheus: str, minutes: float, picture: Path) -> None:
    """Draw every panel at its place on the board. Raises ValueError for panels without a line."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    pyplot.style.use("dark_background")
    figure = pyplot.figure(figsize=(14, rows * 0.45), facecolor="#111217", layout="constrained")
    figure.suptitle(board["title"], x=0.01, ha="left", fontsize=16)
    grid = figure.add_gridspec(rows, 24)
    empty = []
    for panel in board["panels"]:
        at = panel["gridPos"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]], facecolor="#181b1f")
        axes.set_title(panel["title"], loc="left", fontsize=11)
        lines = {
            name: line for target in panel["targets"] for name, line in series(prometheus, target, minutes).items()
        }
        if not lines:
            empty.append(panel["title"])
        for name, line in lines.items():
            seconds, values = zip(*line, strict=True)
            axes.plot(
                [date2num(datetime.fromtimestamp(second, UTC)) for second in seconds],
                values,
                ".-",
                label=name,
                linewidth=1.2,
                markersize=3,
            )
        limits = panel["fieldConfig"]["defaults"]
        axes.set_yscale(limits.get("custom", {}).get("scaleDistribution", {}).get("type", "linear"))
        end_s = time.time()
        axes.set_xlim(*(date2num(datetime.fromtimestamp(second, UTC)) for second in (end_s - 60 * minutes, end_s)))
        axes.set_ylim(limits.get("min"), limits.get("max"))
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.grid(alpha=0.2)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, frameon=False, fontsize=8)
    figure.savefig(picture, dpi=90)
    if empty:
        raise ValueError(
            f"found no line in {', '.join(empty)}, expected at least one in each panel: run a job meanwhile"
        )


if __name__ == "__main__":
    draw(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
