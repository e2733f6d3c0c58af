"""The parts on data: decoding once against decoding every time, and feeding a train step from shards."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from emo_ray import parquet, resources
from emo_ray.config import Config
from emo_ray.data import media, shards, synthetic
from emo_ray.data.batch import Batch, video_from_shards
from emo_ray.data.manifest import Clip
from emo_ray.data.status import is_ok
from emo_ray.experiments.bench.step import LABELS, model_config
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured, compared, rounds, timed
from emo_ray.inference.encoding import shard_columns
from emo_ray.models import emovclip
from emo_ray.models.clip_source import image_size
from emo_ray.progress import progress
from emo_ray.stages.fitting.streaming import collated, in_tables
from emo_ray.stages.fitting.video_job import read_video, video_dataset
from emo_ray.training import loop

COLUMNS = shard_columns(["video"])
READING_BATCH, READING_STEP_S, READERS = 32, 0.04, 2
_MOVIES, _SECONDS, _FPS, _HEIGHT, _WIDTH = 4, 4, 25, 720, 1280
_STREAM_STEPS = 4


def decode(config: Config, scratch: Path) -> Measured:
    """720p mp4 files decoded every time against the same clips read from shards, in one thread."""
    config = model_config(config)
    clips = movies(scratch)
    side = image_size(config)
    part = scratch / "movies.parquet"
    shards.write_part(part, shards.identified(clips, "sample"), config.media, side)

    def from_files() -> None:
        for clip in clips:
            _, status = media.read_video(clip.video, config.media.frames, side)
            assert is_ok(status), f"{clip.video}: {status}"

    def from_part() -> None:
        video_from_shards(parquet.read(part, columns=COLUMNS))

    ways = {"720p mp4": from_files, "shards": from_part}
    cpu_s = dict.fromkeys(ways, 0.0)
    calls = config.bench.pairs + 1
    with progress("decoding", calls * len(ways), "runs") as advance:
        timed_ways = {name: partial(timed, way, cpu_s, name) for name, way in ways.items()}
        seconds = rounds(timed_ways, config.bench.pairs, advance)
    jpegs = [jpeg for frames in parquet.read(part)["frames"].to_pylist() for jpeg in frames]
    bytes_of = {
        "720p mp4": sum(Path(clip.video).stat().st_size for clip in clips if clip.video is not None),
        "shards": sum(map(len, jpegs)),
    }
    figures = [
        Figure(
            "decode",
            name,
            clips_per_s=len(clips) / median(seconds[name]),
            cpu_s_per_clip=cpu_s[name] / calls / len(clips),
            bytes_per_clip=bytes_of[name] / len(clips),
        )
        for name in ways
    ]
    what = f"shards / decoding 720p mp4, {config.media.frames} frames of {side} px"
    return figures, [compared("decode", what, seconds["720p mp4"], seconds["shards"], 20)]


def stream(config: Config, scratch: Path) -> Measured:
    """A train step fed by Ray Data from shards against one on tensors in memory; and Ray Data against a DataLoader."""
    config = model_config(config)
    size = config.bench.batch_sizes[0]
    optimisation = config.emovclip.model_copy(update={"batch_size": size})
    paths, label_of = corpus(config, scratch, max(config.bench.clips, _STREAM_STEPS * size))
    # bf16, because the faster the step, the harder it is to feed.
    settings = loop.LoopSettings(optimisation, epochs=1, steps_per_epoch=_STREAM_STEPS, seed=config.seed, bf16=True)
    torch.set_num_threads(resources.usable_threads(resources.train_worker_cpus(1)))
    model = emovclip.build(config, LABELS)
    collate = partial(video_from_shards, labels=label_of)
    dataset = video_dataset(paths, list(label_of)[: _STREAM_STEPS * size])
    in_memory = list(collated(in_tables(dataset, size), collate))
    histories: dict[str, list[dict]] = {"memory": [], "shards": []}

    def seconds_per_clip(name: str, batches: loop.TrainBatches) -> float:
        reporter = loop.PlainReporter()
        loop.fit(model, batches, lambda epoch: [], settings, reporter)
        histories[name] += reporter.history
        return 1 / reporter.history[0]["train_clips_per_s"]

    def from_shards(epoch: int, steps: int) -> Iterator[Batch]:
        return collated(in_tables(dataset, size, config.train.shuffle_buffer, epoch), collate)

    ways = {
        "memory": partial(seconds_per_clip, "memory", lambda epoch, steps: in_memory),
        "shards": partial(seconds_per_clip, "shards", from_shards),
    }
    with progress("feeding a train step", (config.bench.pairs + 1) * len(ways), "runs") as advance:
        seconds = rounds(ways, config.bench.pairs, advance)
    figures = [
        Figure(
            "stream",
            f"{config.emovclip.clip} bf16 step of {size} clips, from {name}",
            1 / median(seconds[name]),
            waited=median(m["train_waited"] for m in histories[name][1:]),
        )
        for name in ways
    ]
    comparison = compared("stream", "step fed from shards / from memory", seconds["memory"], seconds["shards"], 0.95)
    reading_figures, reading_comparisons = reading(config, paths, collate)
    return figures + reading_figures, [comparison, *reading_comparisons]


def reading(config: Config, paths: list[Path], collate: Callable[[pa.Table], Batch]) -> Measured:
    """Ray Data against two DataLoader workers on the same Parquet, alone and with a step that takes 40 ms."""
    torch.set_num_threads(1)
    streamed = read_video(paths)
    kept = streamed.materialize()
    batches_of_loader = loader(paths, collate, READING_BATCH)

    def read(batches: Callable[[], Iterable[Batch]], step_s: float) -> float:
        begun_s = time.perf_counter()
        clips = 0
        for batch in batches():
            clips += len(batch)
            time.sleep(step_s)  # stands for a GPU that computes while this process waits
        return (time.perf_counter() - begun_s) / clips

    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        # As train reads a split whose shards fit in its share of the object store, and one whose do not.
        "Ray Data, kept": lambda: collated(in_tables(kept, READING_BATCH), collate),
        "Ray Data, streamed": lambda: collated(in_tables(streamed, READING_BATCH), collate),
        "DataLoader": lambda: batches_of_loader,
    }
    step_times_s = (READING_STEP_S, 0.0)
    ways = {(name, step_s): partial(read, sources[name], step_s) for name in sources for step_s in step_times_s}
    with progress("reading", (config.bench.pairs + 1) * len(ways), "runs") as advance:
        seconds = rounds(ways, config.bench.pairs, advance)
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    for step_s, at_least in zip(step_times_s, (1.0, 0.7), strict=True):
        how = f"with a step of {1000 * step_s:g} ms" if step_s else "reading alone"
        figures += [Figure("stream", f"{name}, {how}", 1 / median(seconds[name, step_s])) for name in sources]
        for name in ("Ray Data, kept", "Ray Data, streamed"):
            what = f"{name} / DataLoader, {how}"
            comparisons.append(compared("stream", what, seconds["DataLoader", step_s], seconds[name, step_s], at_least))
    return figures, comparisons


class ShardReader(IterableDataset):
    """How one reads shards without Ray: each DataLoader worker reads every n-th part, batch by batch."""

    def __init__(self, paths: list[Path], collate: Callable[[pa.Table], Batch], batch_size: int):
        self.paths, self.collate, self.batch_size = paths, collate, batch_size

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        assert worker is not None, "only workers of a DataLoader iterate over it"
        for path in self.paths[worker.id :: worker.num_workers]:
            table = parquet.read(path, columns=COLUMNS)
            for start in range(0, len(table), self.batch_size):
                yield self.collate(table.slice(start, self.batch_size))


def loader(paths: list[Path], collate: Callable[[pa.Table], Batch], batch_size: int) -> DataLoader:
    """Batches from `READERS` processes, which start in the round that is not counted and live on between epochs."""
    return DataLoader(
        ShardReader(paths, collate, batch_size), batch_size=None, num_workers=READERS, prefetch_factor=2,
        persistent_workers=True, multiprocessing_context="spawn",
    )  # fmt: skip


def movies(scratch: Path) -> list[Clip]:
    """A few 720p mp4 files with motion everywhere, like those of a camera."""
    generator = np.random.default_rng(0)
    clips: list[Clip] = []
    scene_HWC = _clouds(generator, 80) * 3 // 4 + _clouds(generator, 10) // 4
    for i in range(_MOVIES):
        path = scratch / f"movie{i}.mp4"
        if not path.exists():
            frames = np.stack([_filmed(scene_HWC, 3 * t + i, generator) for t in range(_SECONDS * _FPS)])
            synthetic.write(path, frames, None, _FPS)
        clips.append(Clip(f"movie{i}", str(path)))
    return clips


def _clouds(generator: np.random.Generator, grain: int) -> np.ndarray:
    """A smooth random picture whose details are `grain` pixels wide: int16 (H, W, 3)."""
    coarse_HWC = generator.integers(0, 256, (_HEIGHT // grain, _WIDTH // grain, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse_HWC).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.int16)


def _filmed(scene_HWC: np.ndarray, shift: int, generator: np.random.Generator) -> np.ndarray:
    """A frame of the scene by a camera that has moved `shift` pixels and is slightly noisy."""
    noise = generator.integers(-4, 5, scene_HWC.shape, dtype=np.int16)
    return (np.roll(scene_HWC, shift, axis=1) + noise).clip(0, 255).astype(np.uint8)


def corpus(config: Config, scratch: Path, clips: int) -> tuple[list[Path], dict[str, int]]:
    """Shard parts of so many clips at the CLIP's image size, and the class of each clip; the movies are repeated."""
    side = image_size(config)
    identified = shards.identified(movies(scratch), "sample")
    rows = [row for clip in identified for row in shards.rows(clip, config.media, side)]
    copies = [_copy(rows[i % len(rows)], i) for i in range(clips)]
    table = pa.Table.from_pylist(copies, shards.SCHEMA)
    paths = []
    size = config.media.clips_of_part
    for start in range(0, clips, size):
        paths.append(scratch / f"corpus-{side}" / f"part-{start}.parquet")
        parquet.write(paths[-1], table.slice(start, size), codec="none")
    return paths, {f"c{i}": i % len(LABELS) for i in range(clips)}


def _copy(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A clip of the same frames, whose JPEGs are others: decoders ignore what follows a picture's end."""
    frames = [jpeg + number.to_bytes(4) for jpeg in row["frames"]]
    return {**row, "clip_id": f"c{number}", "frames": frames}
