"""What is wrong with a file of a store, told by reading all of it."""

import ast
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError, safe_open

from emo_ray import parquet, store
from emo_ray.data.folders import first_of
from emo_ray.models import checkpoint_files
from emo_ray.stages.decoding.shard_plan import SETTINGS
from emo_ray.store import DamagedFile

MADE_BY = {
    "corpora": "any job on the synthetic corpus",
    "segments": "jobs/segment.py",
    "shards": "jobs/prepare.py",
    "prepared": "jobs/prepare.py",
    "checks": "jobs/check.py",
    "transcribed": "jobs/transcribe.py",
    "transcripts": "jobs/transcribe.py",
    "readings": "jobs/annotate.py",
    "chat_labels": "jobs/annotate.py",
    "features": "the job that needs it, such as jobs/train.py",
    "checkpoints": "jobs/train.py",
    "exports": "jobs/export.py",
    "predictions": "jobs/predict.py",
    "pseudo_labels": "jobs/pseudo_label.py",
    "reports": "jobs/evaluate.py or jobs/crossvalidate.py",
    "self_train": "jobs/self_train.py",
    "sweeps": "jobs/tune.py",
    "tune": "jobs/tune.py",
    "train": "jobs/train.py",
    "index.html": "jobs/report.py",
    "claims": "jobs/claims.py",
}
_ELSEWHERE = {"train", "tune", "index.html"}  # names that other folders hold, too
_SIGNS = sorted(({"logs", "bench", "tracking", "mlflow.db", "mlartifacts"} | MADE_BY.keys()) - _ELSEWHERE)
_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")
_NO_ARTEFACT = re.compile(r"\.|parts-|(trials|corpora)$")
_EMPTY = {".validate_storage_marker"}  # by which Ray Train knows in a run's folder whether all nodes share it
_WITH_ALL_ROWS = ("features", "predictions")  # whose parts have the rows of their shard part


def check_store(root: Path) -> None:
    """Raises ValueError where there is no folder, and where there is one with things in it that no store holds.

    A corpus that is taken for a store would be called whole, and mending it would move its files.
    """
    if not store.exists(root):
        raise ValueError(f"store.root: found no folder {root}, expected a store: name the one that jobs were given")
    if any(store.exists(root / name) for name in _SIGNS):
        return
    if names := sorted({name.partition("/")[0] for name in store.sizes(root)}):
        raise ValueError(
            f"store.root: found a folder {root} with {first_of(names)} in it, expected a store, which holds folders "
            "such as logs, prepared and checkpoints: name the one that jobs were given"
        )


def is_artefact(name: str) -> bool:
    """Whether a folder of this name, below one of a kind of artefacts, is one: others have no meta of their own."""
    return not _NO_ARTEFACT.match(name)


def damage_of(path: Path, root: Path) -> str | None:
    """What is wrong with a file of the store at `root`; None where it is whole, as far as its kind lets one tell.

    Raises OSError for trouble with reading.
    """
    if path.stat().st_size == 0:
        return None if path.name in _EMPTY else "it is empty"
    try:
        _check_digest(path, root)
        if (check := _CHECKS.get(path.suffix)) is not None:
            check(path, root)
    except DamagedFile as damage:
        return damage.reason
    except ValueError as error:
        return str(error)
    except (SafetensorError, zipfile.BadZipFile, sqlite3.DatabaseError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that are JSON; an unfinished last one, of a process that was killed, is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [line for line in lines if _is_json(line)]


def _check_digest(path: Path, root: Path) -> None:
    """Compare a file with the digests in the metas of the artefacts that it lies in."""
    for folder in (root / parent for parent in path.relative_to(root).parents):
        if folder / store.META == path or not store.is_complete(folder):
            continue
        try:
            _, expected = store.files_of(folder).get(path.relative_to(folder).as_posix(), (0, None))
        except DamagedFile:  # told when its turn comes
            continue
        if expected is not None and store.file_digest(path) != expected:
            raise DamagedFile(path, f"its content is not what {store.META} has a digest of")
    if path.name in checkpoint_files.CHECKED and store.is_complete(path.parent):
        checkpoint_files.check_file(path.parent, path.name)


def _check_parquet(path: Path, root: Path) -> None:
    """Read all pages, which have checksums, and compare a part's name with its rows."""
    if (damage := parquet.damage_of(path)) is not None:
        raise damage
    kind = path.relative_to(root).parts[0]
    if not _PART.fullmatch(path.name):
        return
    if kind == "shards":
        columns = parquet.read(path, columns=["identity"])
        if "identity" in columns.column_names:  # versions before had none
            name = f"part-{store.digest(columns['identity'].to_pylist())}.parquet"
            if name != path.name:
                raise DamagedFile(path, f"its rows are those of {name}")
    elif kind in _WITH_ALL_ROWS:
        shard = next(iter(sorted(root.glob(f"shards/*/{path.name}"))), None)
        if shard is None or parquet.damage_of(shard) is not None:
            return  # nothing to compare with
        if not _clip_ids(path).equals(_clip_ids(shard)):
            raise DamagedFile(path, f"its clips are not those of {shard.relative_to(root)}")


def _clip_ids(path: Path) -> pa.Array:
    return parquet.read(path, columns=["clip_id"])["clip_id"].combine_chunks()


def _check_json(path: Path, root: Path) -> None:
    """Read the file; a meta also names other files of its artefact, which must be there."""
    store.read_json(path)
    if path.name == store.META:
        for name in (*store.files_of(path.parent), *checkpoint_files.digests_of(path.parent)):
            if not (path.parent / name).is_file():
                raise DamagedFile(path, f"it tells of {name}, which is gone")


def _check_lines(path: Path, root: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    if torn := len(lines) - len(whole_lines(path)):
        raise DamagedFile(path, f"{torn} of {len(lines)} lines are no JSON")


def _check_settings(path: Path, root: Path) -> None:
    """Compare the settings of a folder of shards with its name, which is a digest of them."""
    if path.name != SETTINGS:
        return
    try:
        settings = ast.literal_eval(path.read_text(encoding="utf-8"))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DamagedFile(path, f"no settings: {type(error).__name__}") from None
    if store.digest(settings) != path.parent.name:
        raise DamagedFile(path, f"they are not those of {path.parent.name}")


def _check_weights(path: Path, root: Path) -> None:
    with safe_open(path, "np") as weights:
        weights.keys()


def _check_state(path: Path, root: Path) -> None:
    """Read a state of training, which torch keeps in a zip file with checksums."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise DamagedFile(path, f"{name} in it differs from its checksum")


def _check_database(path: Path, root: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (answer,) = connection.execute("pragma quick_check(1)").fetchone()
    if answer != "ok":
        raise DamagedFile(path, answer)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _check_page(path: Path, root: Path) -> None:
    """Look for the page's end: of a page that links are added to, no digest is kept."""
    if not path.read_bytes().rstrip().endswith(b"</html>"):
        raise DamagedFile(path, "the page has no end")


_CHECKS: dict[str, Callable[[Path, Path], None]] = {
    ".html": _check_page,
    ".parquet": _check_parquet,
    ".json": _check_json,
    ".jsonl": _check_lines,
    ".txt": _check_settings,
    ".safetensors": _check_weights,
    ".pt": _check_state,
    ".db": _check_database,
}
