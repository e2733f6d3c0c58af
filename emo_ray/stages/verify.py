"""verify: a store, read from end to end, to what is whole in it, what is damaged, and what makes it again."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from emo_ray import cluster, durable, parquet, store
from emo_ray.config import Config
from emo_ray.data import manifest
from emo_ray.data.prepared import LEDGER, MANIFEST
from emo_ray.locks import lock
from emo_ray.progress import progress
from emo_ray.reports.table import Cell, Table
from emo_ray.stages.decoding.shard_plan import local_files
from emo_ray.stages.result import Result
from emo_ray.stages.store_files import MADE_BY, check_store, damage_of, is_artefact, whole_lines

_ANSWERS = ("readings", "transcribed", "chat_labels")
_KINDS = (
    "corpora",
    "segments",
    "prepared",
    "checkpoints",
    "checks",
    "exports",
    "predictions",
    "pseudo_labels/*",
    "reports",
    "self_train",
    "sweeps",
)
_ARTEFACTS = [f"{kind}/[!.]*" for kind in (*_KINDS, "claims", "claims/corpora", "claims/trials", "bench")]
_BESIDE = (".lock", "-journal", "-wal", "-shm")
_HEADER = ("kind", "whole", "damaged", "unfinished", "left over")
_TEMPORARY_FOLDER = re.compile(r"\.(.+)-[0-9a-f]{32}")
_TEMPORARY_FILE = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_ABANDONED_S = 3600.0  # a file that is written has no lock; nobody takes this long over a part
_SHOWN = 20
State = Literal["whole", "damaged", "unfinished", "left over"]


@dataclass(frozen=True)
class Finding:
    """A file of a store, or a folder that is not finished; `path` is the one in the store."""

    path: str
    state: State
    reason: str = ""

    @property
    def kind(self) -> str:
        """The kind of artefact: the folder in the store."""
        return self.path.partition("/")[0]


@dataclass(frozen=True)
class Loss:
    """A damaged file, which command makes it again, and what is lost for good where none does."""

    path: str
    reason: str
    made_by: str
    lost: str = ""

    def __str__(self) -> str:
        remedy = f"cannot be made again: {self.lost}" if self.lost else f"made again by {self.made_by}"
        return f"damaged: {self.path} ({self.reason}): {remedy}"


def verify(config: Config) -> Result:
    """Read every file of the store, and with `verify.mend` set aside those that are damaged.

    The result's status is 2 where damage stays, or is of something that cannot be made again. Raises ValueError where
    there is no store.
    """
    root = cluster.store_root(config)
    check_store(root)
    store.local(root)
    findings = list(_findings(root))
    losses = [_loss(root, finding) for finding in findings if finding.state == "damaged"]
    removed = 0
    if config.verify.mend:
        for loss in losses:
            _mend(root / loss.path, root)
        removed = sum(_remove(root / finding.path) for finding in findings if finding.state == "left over")
    counts = {kind: _counts(findings, kind) for kind in sorted({finding.kind for finding in findings})}
    is_bad = any(loss.lost for loss in losses) if config.verify.mend else bool(losses)
    content = {
        "kinds": counts,
        "damaged": [asdict(loss) for loss in losses],
        "left_over": [finding.path for finding in findings if finding.state == "left over"],
        "mended": config.verify.mend,
        "removed": removed,
    }
    return Result(root, content, [_table(counts)], _lines(losses, config.verify.mend, removed), 2 if is_bad else 0)


def _findings(root: Path) -> Iterator[Finding]:
    """What lies in a store: each file, and folders of artefacts that are not finished."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() or _TEMPORARY_FOLDER.fullmatch(path.name))
    with progress("verifying", len(paths), "files") as advance:
        for path in paths:
            with suppress(FileNotFoundError):  # a job that runs has renamed or removed it
                yield from _findings_of(path, root)
            advance(1)
    yield from (Finding(path.relative_to(root).as_posix(), "unfinished") for path in _unfinished(root))


def _findings_of(path: Path, root: Path) -> Iterator[Finding]:
    """What a file is, or a temporary folder as a whole; nothing of locks and of files that belong to another one."""
    name = path.relative_to(root).as_posix()
    if any(_TEMPORARY_FOLDER.fullmatch(part) for part in path.relative_to(root).parts[:-1]):
        return
    if path.is_dir():
        yield Finding(name, "unfinished" if _is_held(path) else "left over")
    elif path.name == "lock" or path.name.endswith(_BESIDE):
        return
    elif _TEMPORARY_FILE.fullmatch(path.name):
        yield Finding(name, "unfinished" if _is_young(path) else "left over")
    elif path.name.endswith(store.DAMAGED):
        yield Finding(name, "left over")
    else:
        reason = damage_of(path, root)
        yield Finding(name, "damaged" if reason else "whole", reason or "")


def _unfinished(root: Path) -> Iterator[Path]:
    """The folders of artefacts without their meta, and the states of runs that were stopped."""
    for pattern in _ARTEFACTS:
        folders = (path for path in sorted(root.glob(pattern)) if path.is_dir())
        yield from (path for path in folders if is_artefact(path.name) and not store.is_complete(path))
    for pattern in ("train/[!.]*", "tune/[!.]*"):
        yield from sorted(root.glob(pattern))


def _loss(root: Path, finding: Finding) -> Loss:
    path = root / finding.path
    made_by = MADE_BY.get(finding.kind, "")
    lost = ""
    if finding.kind == "shards" and path.suffix == ".parquet":
        lost = _lost_media(root, path.name)
    elif finding.kind in _ANSWERS and path.suffix == ".jsonl":
        lost = f"answers that were paid for; {made_by} asks the endpoint for them once more"
    elif finding.kind in _ANSWERS and path.name == store.META:
        lost = "the name of these answers, so that features and models of them are made anew; answers are kept"
    elif not made_by:
        lost = (
            "what it tells of past runs" if finding.kind != "bench" else "figures of that day; jobs/bench.py measures"
        )
    return Loss(finding.path, finding.reason, made_by, lost)


def _lost_media(root: Path, part: str) -> str:
    """Which media of a shard part are gone, as the prepared corpora know them; empty where all are there."""
    for ledger in sorted(root.glob(f"prepared/*/{LEDGER}")):
        with suppress(ValueError, OSError):  # damaged or unfinished itself
            rows = parquet.read(ledger, columns=["clip_id", "part"], filters=[("part", "==", part)])
            clip_ids = set(rows["clip_id"].to_pylist())
            if clip_ids:
                clips = [clip for clip in manifest.read(ledger.with_name(MANIFEST)) if clip.clip_id in clip_ids]
                gone = [file for file in local_files(clips) if not Path(file).exists()]
                return f"{len(gone)} of its media are gone, such as {gone[0]}" if gone else ""
    return ""


def _mend(path: Path, root: Path) -> None:
    """Set a damaged file aside; of a log of lines keep those that are whole."""
    with suppress(FileNotFoundError):  # set aside with another name of the same file
        lines = whole_lines(path) if path.suffix == ".jsonl" else []
        store.set_aside(path, root)
        if lines:
            durable.append_lines(path, lines)


def _remove(path: Path) -> bool:
    """Remove what is left over, but for damaged files that have not been made again; returns whether it is gone."""
    if path.name.endswith(store.DAMAGED) and not path.with_name(path.name.removesuffix(store.DAMAGED)).exists():
        return False
    store.remove(path)
    return True


def _is_held(folder: Path) -> bool:
    """Whether a process makes the artefact that this temporary folder is to become."""
    match = _TEMPORARY_FOLDER.fullmatch(folder.name)
    assert match is not None, "the caller has looked"
    lock_file = folder.with_name(f".{match[1]}.lock")
    if not lock_file.exists():
        return _is_young(folder)
    try:
        with lock(lock_file, 0.0) as is_locked:
            return not is_locked and _is_young(folder)
    except TimeoutError:
        return True
    except PermissionError:
        return _is_young(folder)


def _is_young(path: Path) -> bool:
    return time.time() - path.stat().st_mtime < _ABANDONED_S


def _counts(findings: Sequence[Finding], kind: str) -> dict[str, int]:
    counts = Counter(finding.state for finding in findings if finding.kind == kind)
    return {"whole": counts["whole"], "damaged": counts["damaged"], "unfinished": counts["unfinished"],
            "left over": counts["left over"]}  # fmt: skip


def _table(counts: dict[str, dict[str, int]]) -> Table:
    def cell(state: str, number: int) -> str | Cell:
        return Cell(str(number), "bad") if number and state == "damaged" else str(number or "")

    rows = [[kind, *(cell(state, number) for state, number in of_kind.items())] for kind, of_kind in counts.items()]
    note = "Files; unfinished: artefacts and runs that were stopped, which the same command goes on with."
    return Table("The store", _HEADER, rows, note)


def _lines(losses: Sequence[Loss], mended: bool, removed: int) -> list[str]:
    lines = [str(loss) for loss in losses[:_SHOWN]]
    if len(losses) > _SHOWN:
        lines.append(f"and {len(losses) - _SHOWN} more, which --json lists")
    if losses and mended:
        lines.append(f"set aside as NAME{store.DAMAGED}: {len(losses)} damaged files, to be made again")
    elif losses:
        lines.append("verify.mend=true sets them aside, so that the next job makes again what can be made again")
    return [*lines, *([f"removed {removed} that were left over"] if removed else [])]
