"""The parts on commands: seconds from a command to its result, each in a process of its own, with its start."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from emo_ray.config import Config, dump, override
from emo_ray.experiments.bench.jobs import model_folder, with_small_corpus
from emo_ray.experiments.bench.timing import Figure, Measured, compared, rounds
from emo_ray.progress import progress
from emo_ray.stages.decoding.corpus import prepare_corpus

_FEW = 20  # clips to predict
_TABLE_CLIPS, _SPEAKERS, _CLASSES, _FOLDS = 360, 12, 8, 6  # of the feature tables
_WIDTHS = {"video": 56, "audio": 69}
_JOURNEY = ("prepare", "features", "train", "evaluate")


@dataclass(frozen=True)
class _Command:
    """A command, how many clips it concerns, and the seconds that it may take."""

    what: str
    words: Sequence[str]
    clips: int = 0
    limit_s: float | None = None


def start(config: Config, scratch: Path) -> Measured:
    """Seconds of jobs whose work is small, most of which are their start: imports, and Ray where a job needs it."""
    small = with_small_corpus(override(config, {"bench.clips": _FEW}), scratch)
    prepared = prepare_corpus(small)
    places = {"data.corpus": "auto", "data.manifest": str(prepared.path)}
    model = {"checkpoint": str(model_folder(small, prepared, scratch))}
    few = _recipe(override(small, places | model), scratch / "few.yaml")
    tables = _recipe(_on_tables(config, scratch), scratch / "tables.yaml")
    one_epoch = ("train.epochs=1", "fusion.passes_per_epoch=1", "train.refit=false")
    commands = [
        _Command("--help", ("predict", "--help")),
        _Command(f"predict {_FEW} clips", ("predict", few), _FEW, 8.0),
        _Command(f"train one epoch on {_TABLE_CLIPS} rows", ("train", tables, *one_epoch), _TABLE_CLIPS),
        _Command(
            f"crossvalidate {_TABLE_CLIPS} rows in {_FOLDS} folds", ("crossvalidate", tables, f"data.folds={_FOLDS}"),
            _TABLE_CLIPS, 20.0,
        ),
    ]  # fmt: skip

    def seconds_of(command: _Command) -> Callable[[], float]:
        def fresh() -> float:
            store = scratch / f"start-{time.monotonic_ns()}"
            return run_s([*command.words, f"store.root={store}"] if command.clips else command.words)

        return fresh

    with progress("starting jobs", len(commands) * (config.bench.pairs + 1), "jobs") as advance:
        seconds = rounds({c.what: seconds_of(c) for c in commands}, config.bench.pairs, advance)
    figures = [_figure("start", c.what, c.clips, median(seconds[c.what])) for c in commands]
    return figures, [
        compared("start", f"{c.limit_s:g} s / {c.what}", [c.limit_s] * len(seconds[c.what]), seconds[c.what], 1.0)
        for c in commands
        if c.limit_s is not None
    ]


def suite(config: Config, scratch: Path) -> Measured:
    """Seconds of each job on the way from clips to a report on them, run once, one after the other."""
    recipe = _recipe(override(config, {"store.root": str(scratch / "journey")}), scratch / "journey.yaml")
    corpus = config.synthetic
    clips = corpus.train_clips + corpus.validation_clips + corpus.test_clips + corpus.unlabelled_clips
    with progress("running jobs", len(_JOURNEY), "jobs") as advance:
        seconds: dict[str, float] = {}
        for job in _JOURNEY:
            seconds[job] = run_s((job, recipe))
            advance(1)
    seconds["all of them"] = sum(seconds.values())
    return [_figure("suite", what, clips, took_s) for what, took_s in seconds.items()], []


def run_s(words: Sequence[str]) -> float:
    """The seconds that a command takes. Raises RuntimeError with what it said where it fails."""
    begun_s = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "emo_ray", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"emo-ray {' '.join(words)} ended with status {ended.returncode}: {ended.stderr[-2000:]}")
    return time.perf_counter() - begun_s


def _figure(part: str, what: str, clips: int, seconds: float) -> Figure:
    return Figure(part, what, clips / seconds, seconds=seconds)


def _recipe(config: Config, path: Path) -> str:
    path.write_text(dump(config), encoding="utf-8")
    return str(path)


def _on_tables(config: Config, scratch: Path) -> Config:
    """The config on tables of random features that tell the class, of people who show every class."""
    rng = np.random.default_rng(config.seed)
    clip_ids = [f"clip{i:03d}" for i in range(_TABLE_CLIPS)]
    label_B = np.arange(_TABLE_CLIPS) % _CLASSES
    tables = {}
    for name, width in _WIDTHS.items():
        rows_BD = rng.normal(size=(_CLASSES, width))[label_B] / 4 + rng.normal(size=(_TABLE_CLIPS, width))
        tables[f"tables.{name}"] = str(scratch / f"{name}.npz")
        np.savez(scratch / f"{name}.npz", clip_id=np.array(clip_ids), feature=rows_BD.astype(np.float32))
    manifest = scratch / "rows.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        rows = [(i, f"class {k}", f"speaker {rng.integers(_SPEAKERS)}") for i, k in zip(clip_ids, label_B, strict=True)]
        csv.writer(stream).writerows([("clip_id", "label", "speaker"), *rows])
    return override(config, {"data.manifest": str(manifest), "data.corpus": "auto", **tables})
