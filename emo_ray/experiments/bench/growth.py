"""The part on size: every job that a large unlabelled corpus goes through, at corpora that are ten times larger each.

Features are tables of a few numbers, and sounds last a tenth of a second, so that the handling of rows, parts and files
is measured and not arithmetic.
"""

import math
import shutil
import subprocess
import sys
import wave
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import parquet, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.media import RATE_HZ
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured, high_water_bytes, usage
from emo_ray.progress import say

_DIMS, _CLASSES = 16, 6
_LABELLED_SHARE, _FEWEST_LABELLED, _MOST_LABELLED = 0.1, 60, 5000  # of the clips; people do not label more
_SOUND_SAMPLES = RATE_HZ // 10
_LEAST_RATIO = 0.8  # of the clips per second at a size, for those at the next: 1 is linear growth, start-up aside
_SAMPLED_S = 1.0  # how often the CPU seconds of all processes are read
_LOOK_S = 0.1  # how often the memory of a job's own process is
_MOST_FILES = 100_000  # one block of the disk each
_TRAINING = ("train.epochs=3", "train.num_workers=1", "fusion.passes_per_epoch=1", "train.refit=false")


def growth(config: Config, scratch: Path) -> Measured:
    """The time, the memory of the job's own process, and the bytes of the store, of each job at each of `bench.sizes`.

    Each job is a process of its own. The ratios compare clips per second at the two largest sizes.
    """
    figures: list[Figure] = []
    for size in config.bench.sizes:
        folder = scratch / f"growth-{size}"
        figures += _of_tables(size, folder / "tables")
        if size <= _MOST_FILES:
            figures += _of_files(size, folder / "files")
        shutil.rmtree(folder)
    return figures, compared_sizes(figures, config.bench.sizes)


def _of_tables(size: int, folder: Path) -> list[Figure]:
    """The jobs on a manifest and feature tables."""
    data = _write_tables(folder, size)
    root = folder / "store"
    figures = [
        _measured("prepare, tables", "prepare", data, root, size),
        _measured("prepare again", "prepare", data, root, size),
        _measured("features from tables", "features", data, root, size),
        _measured("train", "train", [*data, *_TRAINING], root, size),
        _measured("train again", "train", [*data, *_TRAINING], root, size),
    ]
    (model,) = (path for path in (root / "checkpoints").iterdir() if path.name.startswith("model-"))
    model_words = [f"checkpoint={model}", "train.num_workers=1"]
    figures += [
        _measured("evaluate", "evaluate", [*data, *model_words], root, size),
        _measured("pseudo_label", "pseudo_label", [*data, *model_words, "pseudo.max_ratio=1000"], root, size),
    ]
    (pseudo_labels,) = (root / "pseudo_labels").glob("*/round-0")
    figures += [
        _measured("train a student", "train", [*data, *_TRAINING, f"train.pseudo_labels={pseudo_labels}"], root, size),
        _measured("predict", "predict", [*data, *model_words], root, size),
        _measured("report", "report", [], root, size),
        _measured("status", "status", [], root, size),
        _measured("verify", "verify", [], root, size),
    ]
    return figures


def _of_files(size: int, folder: Path) -> list[Figure]:
    """A folder of sounds, listed and decoded; and listed once more."""
    sounds = folder / "sounds"
    sounds.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(size):
        with wave.open(str(sounds / f"sound-{i:07}.wav"), "wb") as stream:
            stream.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
            stream.writeframes(noise.integers(-9999, 9999, _SOUND_SAMPLES, np.int16).tobytes())
    data = [f"data.manifest={sounds}"]
    return [
        _measured(name, "prepare", data, folder / "store", size) for name in ("prepare, files", "prepare files again")
    ]


def _write_tables(folder: Path, size: int) -> list[str]:
    """Write a manifest and a feature table for each modality; the words of a job that name them."""
    random = np.random.default_rng(0)
    names = pa.array([f"clip-{i:07}" for i in range(size)])
    class_N = random.integers(_CLASSES, size=size)
    labelled_N = np.arange(size) < np.clip(_LABELLED_SHARE * size, _FEWEST_LABELLED, _MOST_LABELLED)
    labels = pa.array([f"class {k}" for k in class_N], mask=~labelled_N)
    splits = pa.array(["unlabelled"] * size, mask=labelled_N)
    parquet.write(folder / "clips.parquet", pa.table({"clip_id": names, "label": labels, "split": splits}))
    centre_KD = random.normal(size=(_CLASSES, _DIMS))
    words = [f"data.manifest={folder / 'clips.parquet'}"]
    for name in MODALITIES:
        values_ND = (centre_KD[class_N] + 2 * random.normal(size=(size, _DIMS))).astype(np.float32)
        feature = pa.FixedSizeListArray.from_arrays(pa.array(values_ND.ravel()), _DIMS)
        parquet.write(folder / f"{name}.parquet", pa.table({"clip_id": names, "feature": feature}))
        words.append(f"tables.{name}={folder / name}.parquet")
    return words


def _measured(what: str, job: str, words: Sequence[str], root: Path, size: int) -> Figure:
    """Run a job to its end. Raises ValueError where it fails."""
    before = sum(store.sizes(root).values()) if root.exists() else 0
    command = [sys.executable, "-m", "emo_ray", job, *words, f"store.root={root}"]
    log = root.parent / "words.txt"
    peak_bytes = 0
    with log.open("wb") as stream, usage(_SAMPLED_S) as used:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        while process.returncode is None:
            peak_bytes = max(peak_bytes, high_water_bytes(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
    if process.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-600:]
        raise ValueError(f"{job}: found exit status {process.returncode}, expected 0: {end}")
    size_bytes = sum(store.sizes(root).values()) - before
    say(f"{what}, {size} clips: {used.wall_s:.1f} s, {used.cpu_s:.1f} s of CPU, {peak_bytes / 2**30:.2f} GB")
    return Figure(
        "growth",
        f"{what}, {size} clips",
        clips_per_s=size / used.wall_s,
        cpu_s_per_clip=used.cpu_s / size,
        bytes_per_clip=size_bytes / size,
        peak_bytes=peak_bytes or None,
    )


def compared_sizes(figures: Sequence[Figure], sizes: Sequence[int]) -> list[Comparison]:
    """For each job, clips per second at the largest size over those at the one before, and how its seconds grow."""
    if len(sizes) < 2:
        return []
    small, large = sizes[-2:]
    figure_of = {figure.what: figure for figure in figures}
    comparisons = []
    for what, at_large in figure_of.items():
        job, _, size = what.rpartition(", ")
        if size == f"{large} clips":
            at_small = figure_of[f"{job}, {small} clips"]
            ratio = at_large.clips_per_s / at_small.clips_per_s
            cpu_ratio = _measured_cpu_s(at_small) / _measured_cpu_s(at_large)
            wall, cpu = (1 - math.log(each) / math.log(large / small) for each in (ratio, cpu_ratio))
            words = (
                f"{job}: clips/s at {large} / at {small} clips (seconds grow as n^{wall:.2f}, of CPU as n^{cpu:.2f})"
            )
            comparisons.append(Comparison("growth", words, ratio, ratio, ratio, _LEAST_RATIO))
    return comparisons


def _measured_cpu_s(figure: Figure) -> float:
    assert figure.cpu_s_per_clip is not None, "every job is measured"
    return figure.cpu_s_per_clip
