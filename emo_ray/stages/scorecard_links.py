"""Links between a scorecard and what else a store has of the same model: mistakes, its noise ladder, comparisons.

An artefact that is about reports beside it names them in its meta, as folder -> checkpoint.
"""

import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path

from emo_ray import durable, store
from emo_ray.reports import evaluation, noise
from emo_ray.reports.page import Link, relinked
from emo_ray.reports.scorecard import MISTAKES

META = {store.REWRITTEN: [evaluation.PAGE]}  # of a report
NOISE, COMPARE = "noise-", "compare-"  # first letters of the folders' names
MISTAKES_LINK = Link("its most confident mistakes", f"{MISTAKES}.html")
_SIBLING = re.compile(r'href="(\.\./[^"]+)"')


def to_scorecards(reports: Mapping[str, str]) -> list[Link]:
    """Links to these reports, folder -> checkpoint, from the page of an artefact beside them."""
    return [Link(f"scorecard of {name}", f"../{folder}/{evaluation.PAGE}") for folder, name in reports.items()]


def refresh(folder: Path) -> None:
    """Link the scorecard in a folder to the noise ladder and the comparisons that are about it and lie beside it."""
    if evaluation.PAGE not in store.read_meta(folder).get(store.REWRITTEN, ()):
        return  # a report of an earlier version, or none of this project
    links = [*_ladders(folder), *_comparisons(folder)]
    page = store.latest(folder / evaluation.PAGE)
    text = page.read_text("utf-8")
    if set(_SIBLING.findall(text)) == {link.path for link in links}:
        return
    durable.write_text(page, relinked(text, [MISTAKES_LINK, *links]))


def _ladders(folder: Path) -> list[Link]:
    paths = _about(folder, NOISE)
    return [Link("its noise ladder", f"../{path.name}/{noise.PAGE}") for path in paths]


def _comparisons(folder: Path) -> list[Link]:
    links = []
    for path, reports in _about(folder, COMPARE).items():
        others = ", ".join(checkpoint for name, checkpoint in reports.items() if name != folder.name)
        links.append(Link(f"compared with {others}", f"../{path.name}/{evaluation.PAGE}"))
    return links


def _about(folder: Path, prefix: str) -> dict[Path, dict[str, str]]:
    """The artefacts beside a report that are about it, each with all reports that it is about."""
    names = fnmatch.filter(sorted(store.sizes(folder.parent)), f"{prefix}*/{store.META}")
    paths = [folder.parent / Path(name).parent for name in names]
    reports_of = {path: store.read_meta(path).get("reports", {}) for path in paths}
    return {path: reports for path, reports in reports_of.items() if folder.name in reports}
