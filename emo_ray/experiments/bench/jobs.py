"""The other half of the benchmark: whole jobs of ours against the same work in one plain Python process."""

import math
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import torch

from emo_ray import cluster
from emo_ray.config import Config, override
from emo_ray.data.batch import Batch, video_from_shards
from emo_ray.data.prepared import Prepared
from emo_ray.experiments.bench.data import Measured, corpus, loader
from emo_ray.experiments.bench.step import LABELS
from emo_ray.experiments.bench.timing import Figure, Usage, compared, rounds, usage
from emo_ray.models import audio, checkpoint, checkpoint_files, emovclip, text
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.progress import progress
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.encoders import encoders_of
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.fitting.phases import video_dataset
from emo_ray.stages.fitting.ray_train import in_batches
from emo_ray.stages.predict import load_models, predict_part
from emo_ray.stages.predict import predict as predict_job
from emo_ray.training import loop


def train(config: Config, scratch: Path) -> Measured:
    """EmoVCLIP of this config trained by Ray Train from shards, and by the same loop in this process.

    The latter is fed as one would without Ray, by a DataLoader from the same shards, and from tensors in memory.
    Compared is the rate from the end of the first epoch to the end of the last, with validation and state.
    """
    config = override(config, {"data.labels": LABELS, "train.num_workers": 1, "store.root": str(scratch / "store")})
    own = config.emovclip
    paths, label_of = corpus(config, scratch, max(config.bench.clips, 2 * own.batch_size))
    collate = partial(video_from_shards, labels=label_of)
    checked = dict(list(label_of.items())[: own.batch_size])
    datasets = {"train": video_dataset(paths, label_of), "validation": video_dataset(paths, checked)}
    job = ray_train.TrainingJob(
        phase="bench",
        digest="",
        build=partial(emovclip.build, config, LABELS),
        collate=collate,
        optimisation=own,
        train_rows=len(label_of),
    )
    train_batches, checked_batches = (list(in_batches(d, collate, own.batch_size)) for d in datasets.values())
    workers = loader(paths, collate, own.batch_size)
    torch.set_num_threads(cluster.usable_threads(cluster.train_worker_cpus(1)))
    first_s = _plain(job, config, train_batches, checked_batches, epochs=2)
    epochs = math.ceil(config.bench.train_s / first_s) + 1
    waits: list[float] = []

    def on_ray() -> float:
        run = override(config, {"train.epochs": epochs})
        mine = ray_train.TrainingJob(**{**vars(job), "digest": uuid.uuid4().hex})
        ends_s: list[float] = []
        best = ray_train.train(mine, run, datasets, lambda phase, metrics: ends_s.append(time.perf_counter()))
        ray_train.clean_up(mine, run)
        waits.extend(m["train_waited"] for m in best["history"][1:])
        return (ends_s[-1] - ends_s[0]) / ((epochs - 1) * len(label_of))

    def plain(batches: Iterable[Batch]) -> float:
        return _plain(job, config, batches, checked_batches, epochs) / len(label_of)

    ways = {
        "Ray Train": on_ray,
        "plain, DataLoader": lambda: plain(workers),
        "plain, memory": lambda: plain(train_batches),
    }
    with usage() as used:
        seconds = rounds(ways, config.bench.pairs, warm_up=False)
    figures = [Figure("train", name, 1 / median(seconds[name])) for name in seconds]
    figures[0].peak_bytes, figures[0].waited = used.peak_bytes, median(waits)
    what = f"{epochs - 1} epochs of {len(label_of)} clips"
    return figures, [
        compared("train", f"Ray Train / {name}, {what}", seconds[name], seconds["Ray Train"], 0.95)
        for name in ("plain, DataLoader", "plain, memory")
    ]


def features(config: Config, scratch: Path) -> Measured:
    """What it costs to prepare clips and to encode each of their modalities, with the start of the processes."""
    config, figures = _small(config, scratch), []
    with usage() as used:
        prepared = prepare_corpus(config)
    clips = len(prepared.clips)
    size = sum((prepared.shards / name).stat().st_size for name in prepared.parts)
    figures.append(_figure("features", "prepare (render and decode)", clips, used, size))
    for encoder in encoders_of(config, model_folder(config, prepared, scratch)):
        with usage() as used:
            folder = encode_corpus(config, prepared, [encoder])[encoder.modality]
        size = sum((folder / name).stat().st_size for name in prepared.parts)
        figures.append(_figure("features", f"encode {encoder.modality}", clips, used, size))
    return figures, []


def predict(config: Config, scratch: Path) -> Measured:
    """The parallel job on all cores against one process that predicts part by part, in one thread each.

    Compared are the rates once every process has finished a part; a start takes the same seconds for any corpus.
    """
    config = _small(config, scratch)
    prepared = prepare_corpus(config)
    path, clips = model_folder(config, prepared, scratch), len(prepared.clips)
    config, alone = override(config, {"checkpoint": str(path)}), scratch / "single"
    torch.set_num_threads(1)
    whole_s: dict[str, list[float]] = {"parallel": [], "one process": []}

    def parallel() -> float:
        for kept in ("predictions", "features"):  # feature tables would be read in place of encoding
            shutil.rmtree(cluster.store_root(config) / kept, ignore_errors=True)
        begun_s = time.perf_counter()
        folder = predict_job(config).path
        whole_s["parallel"].append(time.perf_counter() - begun_s)
        return _started_s(folder, prepared.parts, math.ceil(cluster.cpus()))

    def single() -> float:
        begun_s = time.perf_counter()
        models = load_models(config, path)
        with progress("predicting in one process", clips, "clips") as advance:
            for name in prepared.parts:
                advance(predict_part(models, prepared.shards / name, {}, alone / name).sum())
        whole_s["one process"].append(time.perf_counter() - begun_s)
        return _started_s(alone, prepared.parts, 1)

    with usage() as used:
        seconds = rounds({"parallel": parallel, "one process": single}, config.bench.pairs)
    figures = [Figure("predict", f"{name}, once started", 1 / median(seconds[name])) for name in seconds]
    figures += [Figure("predict", f"{name}, with its start", clips / median(whole_s[name][1:])) for name in seconds]
    figures[0].cpu_s_per_clip = used.cpu_s / (2 * (config.bench.pairs + 1) * clips)
    figures[0].peak_bytes = used.peak_bytes
    what = f"parallel on {cluster.cpus():g} cores / one process, once started"
    return figures, [compared("predict", what, seconds["one process"], seconds["parallel"], 1.7)]


def _started_s(folder: Path, parts: Sequence[str], processes: int) -> float:
    """Seconds per clip from the moment at which so many parts were done to the last, by the files' times."""
    done = sorted((folder / name for name in parts), key=lambda p: p.stat().st_mtime_ns)
    clips = sum(pq.read_metadata(p).num_rows for p in done[processes:])
    return 1e-9 * (done[-1].stat().st_mtime_ns - done[processes - 1].stat().st_mtime_ns) / clips


def model_folder(config: Config, prepared: Prepared, scratch: Path) -> Path:
    """An untrained model of this config: it costs what a trained one costs."""
    path, labels = scratch / "model", prepared.labels
    if not path.exists():
        video = emovclip.build(config, labels)
        sizes = {"video": video.clip.visual.output_dim}
        sizes |= {"audio": audio.build(config.audio).dim, "text": text.build(config.text).dim}
        scaling = {name: torch.stack([torch.zeros(size), torch.ones(size)]) for name, size in sizes.items()}
        head = FusionHead(config.fusion, scaling, len(labels))
        for folder, model in ((path, head), (path / checkpoint_files.EMOVCLIP, video)):
            folder.mkdir(parents=True)
            checkpoint.write(folder, trained_state(model), config, labels, "An untrained model of the benchmark.\n")
    return path


def _small(config: Config, scratch: Path) -> Config:
    """A synthetic corpus of `bench.clips` clips, in a store of its own."""
    clips = config.bench.clips
    return override(
        config,
        {
            **{"data.manifest": None, "data.corpus": "synthetic", "store.root": str(scratch / "store")},
            "annotate.url": None,  # encoders are measured, not somebody's endpoint
            **{"synthetic.train_clips": 6, "synthetic.validation_clips": 6, "synthetic.test_clips": 6},
            "synthetic.unlabelled_clips": max(0, clips - 18),
        },
    )


def _figure(part: str, what: str, clips: int, used: Usage, size: float) -> Figure:
    return Figure(part, what, clips / used.wall_s, used.cpu_s / clips, size / clips, used.peak_bytes)


def _plain(
    job: ray_train.TrainingJob, config: Config, train: Iterable[Batch], validation: Iterable[Batch], epochs: int
) -> float:  # fmt: skip
    """Seconds per epoch after the first of the same loop in this process."""
    ends_s: list[float] = []

    class Timing(loop.PlainReporter):
        def report(self, metrics, state):
            ends_s.append(time.perf_counter())

    steps = -(-job.train_rows // job.optimisation.batch_size)
    plan = loop.LoopSettings(job.optimisation, epochs, steps, config.seed)
    loop.fit(job.build(), lambda epoch: train, lambda epoch: validation, plan, Timing())
    return (ends_s[-1] - ends_s[0]) / (epochs - 1)
