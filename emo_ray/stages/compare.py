"""compare: two reports on the same clips, to what can be concluded of the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from emo_ray import cluster, durable, parquet, store
from emo_ray.config import Config
from emo_ray.data import clip_tables
from emo_ray.reports import comparison as report
from emo_ray.reports.comparison import ModelComparison, conclusion
from emo_ray.reports.scorecard import PREDICTIONS, REPORT
from emo_ray.stages import scorecard_links
from emo_ray.stages.result import Result
from emo_ray.stages.scorecard_links import COMPARE, to_scorecards

VERSION = 1
COMPARISON = "comparison.json"
_TOGETHER = "p_VAT"  # with whatever each clip has


def compare(config: Config, folders: Sequence[Path]) -> Result:
    """What can be said of the models of two reports from the clips that both have judged.

    Raises ValueError where they know other classes, or no clip in common, or disagree on a clip's label.
    """
    digests = [store.digest_path(folder / PREDICTIONS) for folder in folders]
    names = _names(folders)
    place = cluster.store_root(config) / "reports"
    folder = place / f"{COMPARE}{store.digest(VERSION, names, digests, config.seed)}"
    reports = {path.name: name for path, name in zip(folders, names, strict=True) if path.parent.resolve() == place}

    def fill(temporary: Path) -> None:
        content = _compared(folders, names, config.seed)
        durable.write_json(temporary / COMPARISON, content)
        report.write(content, temporary, to_scorecards(reports))

    store.artefact(folder, {"kind": "comparison", "version": VERSION, "reports": reports}, fill)
    for name in reports:
        scorecard_links.refresh(place / name)
    content: ModelComparison = store.read_json(folder / COMPARISON)
    lines = [conclusion(content), f"pictures and details: {folder / report.PAGE}"]
    return Result(folder, dict(content), report.tables(content), lines)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the two models are called; the folders of their reports where that is the same."""
    names = []
    for folder in folders:
        path = folder / REPORT
        content: dict[str, Any] = store.read_json(path) if path.is_file() else {}
        names.append(content.get("checkpoint") or folder.name)
    return names if len(set(names)) == len(names) else [folder.name for folder in folders]


def _compared(folders: Sequence[Path], names: list[str], seed: int) -> ModelComparison:
    from emo_ray.training.comparison import comparison  # scipy's statistics take a second to import

    first, second = (_read(folder) for folder in folders)
    where = f"in {folders[0]} and {folders[1]}"
    if set(first.labels) != set(second.labels):
        raise ValueError(
            f"evaluate.compare: found the classes {', '.join(first.labels)} and {', '.join(second.labels)} {where}, "
            "expected the same: compare models of one corpus"
        )
    common = sorted(first.label_of.keys() & second.label_of.keys())
    differing = [clip_id for clip_id in common if first.label_of[clip_id] != second.label_of[clip_id]]
    if not common or differing:
        fault = f"other labels of {len(differing)} clips ({differing[0]})" if differing else "no clip in common"
        raise ValueError(
            f"evaluate.compare: found {fault} {where}, expected reports on the same clips: evaluate both models with "
            "one data.manifest"
        )
    index = {label: k for k, label in enumerate(first.labels)}
    label_B = np.array([index[first.label_of[clip_id]] for clip_id in common])
    pair_2B = np.array([[index[judged.guess_of[clip_id]] for clip_id in common] for judged in (first, second)])
    speakers_B = [first.speaker_of[clip_id] for clip_id in common]
    content = comparison(pair_2B, label_B, len(index), speakers_B, seed)
    left_out = len(first.label_of.keys() ^ second.label_of.keys())
    return {"names": names, "left_out": left_out, **content}  # type: ignore[typeddict-item] # of `comparison`'s entries


def judged_rows(folder: Path) -> tuple[list[str], pa.Table, np.ndarray]:
    """A report's classes, the rows of its predictions of clips with any modality, and their probabilities (B, K).

    The probabilities are those by whatever each clip has.
    """
    table = parquet.read(folder / PREDICTIONS)
    labels = clip_tables.labels_of(table)
    has_any_B = np.any([table[name].to_numpy() for name in table.column_names if name.startswith("has_")], axis=0)
    table = table.filter(pa.array(has_any_B))
    return labels, table, np.array(table[_TOGETHER].to_pylist()).reshape(-1, len(labels))


@dataclass(frozen=True)
class _Judged:
    """What a report's predictions say of clips with any modality."""

    labels: list[str]
    label_of: dict[str, str]
    guess_of: dict[str, str]
    speaker_of: dict[str, str | None]


def _read(folder: Path) -> _Judged:
    labels, table, probability_BK = judged_rows(folder)
    ids = table["clip_id"].to_pylist()
    speakers = table["speaker"].to_pylist() if "speaker" in table.column_names else [None] * len(ids)
    return _Judged(
        labels,
        dict(zip(ids, table["label"].to_pylist(), strict=True)),
        {clip_id: labels[k] for clip_id, k in zip(ids, probability_BK.argmax(axis=1), strict=True)},
        dict(zip(ids, speakers, strict=True)),
    )
