"""The parts on whole jobs: ours against the same work in one plain Python process."""

import math
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import pyarrow.parquet as pq
import ray.data
import torch

from emo_ray import cluster, resources
from emo_ray.config import Config, override
from emo_ray.data.batch import Batch, video_from_shards
from emo_ray.data.prepared import Prepared
from emo_ray.experiments.bench.data import corpus, loader
from emo_ray.experiments.bench.step import LABELS
from emo_ray.experiments.bench.timing import Figure, Measured, Usage, compared, rounds, usage
from emo_ray.inference.classifier import load_models
from emo_ray.inference.encoders import encoders_of
from emo_ray.models import audio, checkpoint, checkpoint_files, emovclip, text
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.progress import progress
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.fitting.streaming import collated, in_tables
from emo_ray.stages.fitting.video_job import kept_frames, video_dataset
from emo_ray.stages.predict import predict as predict_job
from emo_ray.stages.predictor import predict_part
from emo_ray.training import loop


def train(config: Config, scratch: Path) -> Measured:
    """EmoVCLIP of this config trained by Ray Train from shards, and by the same loop in this process.

    The loop in this process is fed by a DataLoader from the same shards, as one would do without Ray, and from tensors
    in memory. Rates are those from the end of the first epoch to the end of the last, with validation and state.
    """
    config = override(
        config,
        {
            "data.labels": LABELS,
            "train.num_workers": 1,
            "train.min_workers": None,
            "store.root": str(scratch / "store"),
        },
    )
    batch_size = config.emovclip.batch_size
    paths, label_of = corpus(config, scratch, max(config.bench.clips, 2 * batch_size))
    collate = partial(video_from_shards, labels=label_of)
    clips_of = {"train": list(label_of), "validation": list(label_of)[:batch_size]}
    datasets = {split: video_dataset(paths, clip_ids) for split, clip_ids in clips_of.items()}
    job = ray_train.TrainingJob(
        phase="bench",
        digest="",
        build=partial(emovclip.build, config, LABELS),
        collate=partial(collate, decode=kept_frames(config)),
        optimisation=config.emovclip,
        train_rows=len(label_of),
    )
    train_batches, validation_batches = (list(collated(in_tables(d, batch_size), collate)) for d in datasets.values())
    batches_of_loader = loader(paths, collate, batch_size)
    torch.set_num_threads(resources.usable_threads(resources.train_worker_cpus(1)))
    first_epoch_s = _train_plainly(job, config, train_batches, validation_batches, epochs=2)
    epochs = math.ceil(config.bench.train_s / first_epoch_s) + 1
    waits: list[float] = []

    def plain(batches: Iterable[Batch]) -> float:
        return _train_plainly(job, config, batches, validation_batches, epochs) / len(label_of)

    ways = {
        "Ray Train": partial(_train_on_ray, job, override(config, {"train.epochs": epochs}), datasets, waits),
        "plain, DataLoader": partial(plain, batches_of_loader),
        "plain, memory": partial(plain, train_batches),
    }
    with usage() as used:
        seconds = rounds(ways, config.bench.pairs, warm_up=False)
    on_ray, *others = (Figure("train", name, 1 / median(seconds[name])) for name in seconds)
    on_ray = replace(on_ray, peak_bytes=used.peak_bytes, waited=median(waits))
    what = f"{epochs - 1} epochs of {len(label_of)} clips"
    return [on_ray, *others], [
        compared("train", f"Ray Train / {name}, {what}", seconds[name], seconds["Ray Train"], at_least)
        for name, at_least in (("plain, DataLoader", 0.95), ("plain, memory", 0.97))
    ]


def _train_on_ray(
    job: ray_train.TrainingJob, config: Config, datasets: dict[str, ray.data.Dataset], waits: list[float]
) -> float:
    """Seconds per clip by Ray Train after the first epoch; the share that each epoch waited is added to `waits`."""
    job = replace(job, digest=uuid.uuid4().hex)  # else it would resume the run before
    ends_s: list[float] = []
    best = ray_train.train(job, config, datasets, lambda phase, metrics: ends_s.append(time.perf_counter()))
    ray_train.clean_up(config, job.phase, job.digest)
    waits.extend(metrics["train_waited"] for metrics in best["history"][1:])
    return (ends_s[-1] - ends_s[0]) / ((config.train.epochs - 1) * job.train_rows)


def _train_plainly(
    job: ray_train.TrainingJob, config: Config, train: Iterable[Batch], validation: Iterable[Batch], epochs: int
) -> float:
    """Seconds per epoch after the first of the same loop in this process."""
    ends_s: list[float] = []

    class TimingReporter(loop.PlainReporter):
        def report(self, metrics: dict[str, float], state: Path | None) -> None:
            ends_s.append(time.perf_counter())

    steps = -(-job.train_rows // job.optimisation.batch_size)
    settings = loop.LoopSettings(job.optimisation, epochs, steps, config.seed)
    loop.fit(job.build(), lambda epoch, steps: train, lambda epoch: validation, settings, TimingReporter())
    return (ends_s[-1] - ends_s[0]) / (epochs - 1)


def features(config: Config, scratch: Path) -> Measured:
    """The cost of preparing clips and of encoding each of their modalities, including the start of the processes."""
    config = with_small_corpus(config, scratch)
    with usage() as used:
        prepared = prepare_corpus(config)
    clips = len(prepared.clips)
    size = sum((prepared.shards / name).stat().st_size for name in prepared.parts)
    figures = [_figure("features", "prepare (render and decode)", clips, used, size)]
    for encoder in encoders_of(config, model_folder(config, prepared, scratch)):
        with usage() as used:
            folder = encode_corpus(config, prepared, [encoder])[encoder.modality]
        size = sum((folder / name).stat().st_size for name in prepared.parts)
        figures.append(_figure("features", f"encode {encoder.modality}", clips, used, size))
    return figures, []


def predict(config: Config, scratch: Path) -> Measured:
    """The parallel job on all cores against one process that predicts part by part, with one thread each.

    Rates are measured from when every process has finished a part, because a start takes the same time for any corpus.
    """
    config = with_small_corpus(config, scratch)
    prepared = prepare_corpus(config)
    path = model_folder(config, prepared, scratch)
    clips = len(prepared.clips)
    config = override(config, {"checkpoint": str(path)})
    single_folder = scratch / "single"
    torch.set_num_threads(1)
    whole_s: dict[str, list[float]] = {"parallel": [], "one process": []}

    def parallel() -> float:
        root = cluster.store_root(config)
        for kind in ("predictions", "features"):  # stored features would be read, and nothing encoded
            shutil.rmtree(root / kind, ignore_errors=True)
        begun_s = time.perf_counter()
        predict_job(config)
        whole_s["parallel"].append(time.perf_counter() - begun_s)
        (folder,) = (root / "predictions").glob("parts-*")  # what actors write; the job's own folder copies it at once
        return _seconds_per_clip_once_started(folder, prepared.parts, math.ceil(cluster.cpus()))

    def single() -> float:
        begun_s = time.perf_counter()
        models = load_models(config, path)
        with progress("predicting in one process", clips, "clips") as advance:
            for name in prepared.parts:
                advance(predict_part(models, prepared.shards / name, {}, single_folder / name).sum())
        whole_s["one process"].append(time.perf_counter() - begun_s)
        return _seconds_per_clip_once_started(single_folder, prepared.parts, 1)

    with usage() as used:
        seconds = rounds({"parallel": parallel, "one process": single}, config.bench.pairs)
    figures = [Figure("predict", f"{name}, once started", 1 / median(seconds[name])) for name in seconds]
    figures += [Figure("predict", f"{name}, with its start", clips / median(whole_s[name][1:])) for name in seconds]
    cpu_s_per_clip = used.cpu_s / (2 * (config.bench.pairs + 1) * clips)  # over both ways
    figures[0] = replace(figures[0], cpu_s_per_clip=cpu_s_per_clip, peak_bytes=used.peak_bytes)
    what = f"parallel on {cluster.cpus():g} cores / one process, once started"
    return figures, [compared("predict", what, seconds["one process"], seconds["parallel"], 1.8)]


def _seconds_per_clip_once_started(folder: Path, parts: Sequence[str], processes: int) -> float:
    """Seconds per clip after each of these processes has written a part, by the files' times."""
    done = sorted((folder / name for name in parts), key=lambda path: path.stat().st_mtime_ns)
    first = min(processes, len(done) - 1)  # parts that were written before the measured ones
    clips = sum(pq.read_metadata(path).num_rows for path in done[first:])
    return 1e-9 * (done[-1].stat().st_mtime_ns - done[first - 1].stat().st_mtime_ns) / clips


def model_folder(config: Config, prepared: Prepared, scratch: Path) -> Path:
    """The folder of an untrained model of this config, which costs as much as a trained one."""
    path = scratch / "model"
    labels = prepared.labels
    if not path.exists():
        video = emovclip.build(config, labels)
        encoders = {
            "video": emovclip.VideoEncoder(video),
            "audio": audio.build(config.audio),
            "text": text.build(config.text),
        }
        sizes = {name: cast(int, encoder.dim) for name, encoder in encoders.items()}
        scaling = {name: torch.stack([torch.zeros(size), torch.ones(size)]) for name, size in sizes.items()}
        head = FusionHead(config.fusion, scaling, len(labels))
        for folder, model in ((path, head), (path / checkpoint_files.EMOVCLIP, video)):
            folder.mkdir(parents=True)
            checkpoint.write(folder, trained_state(model), config, labels, "An untrained model of the benchmark.\n")
    return path


def with_small_corpus(config: Config, scratch: Path) -> Config:
    """The config on a synthetic corpus of `bench.clips` clips, in a store of its own."""
    return override(
        config,
        {
            "data.manifest": None,
            "data.corpus": "synthetic",
            "store.root": str(scratch / "store"),
            "annotate.url": None,  # encoders are measured, not somebody's endpoint
            "train.num_workers": 1,  # 0 would encode and predict in this process alone
            "train.min_workers": None,
            "synthetic.train_clips": 6,
            "synthetic.validation_clips": 6,
            "synthetic.test_clips": 6,
            "synthetic.unlabelled_clips": max(0, config.bench.clips - 18),
        },
    )


def _figure(part: str, what: str, clips: int, used: Usage, size: float) -> Figure:
    return Figure(part, what, clips / used.wall_s, used.cpu_s / clips, size / clips, used.peak_bytes)
