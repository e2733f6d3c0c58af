"""predict: a checkpoint and clips of any kind to a table of predictions, in one pass and part by part.

A part is decoded where its shard is missing, its modalities are encoded where their features are missing, and it is
classified; only shards and predictions are kept. A predictions part has the name and the rows of its shard part, and
parts that are there are kept, so the stage goes on after a kill.
"""

import pickle
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from emo_ray import cluster, parquet, resources, store, trouble
from emo_ray.config import Config
from emo_ray.data import shards
from emo_ray.data.dialogues import Windows, windows_of
from emo_ray.inference.classifier import ClipSpeakers, Models, load_models
from emo_ray.inference.encoders import TextTables, feature_folder, of_checkpoint
from emo_ray.models.checkpoint_files import WEIGHTS, folder_of
from emo_ray.progress import progress
from emo_ray.reports.cards import TABLE_ROWS, Answer, table
from emo_ray.reports.training import summary_table
from emo_ray.reports.wording import plural
from emo_ray.stages import prediction_files, timelines
from emo_ray.stages.corpus import texts_of
from emo_ray.stages.decoding.corpus import decode, plan_corpus
from emo_ray.stages.decoding.shard_plan import ShardPlan, decode_tasks
from emo_ray.stages.encoding import clip_speakers, external_tables
from emo_ray.stages.encoding.actor import actor_device
from emo_ray.stages.encoding.feature_tables import actor_pool
from emo_ray.stages.encoding.neighbours import Near, near_parts
from emo_ray.stages.encoding.text_sources import TextSources
from emo_ray.stages.prediction_files import PredictedCorpus
from emo_ray.stages.prediction_rows import UNUSABLE, check_people, tally
from emo_ray.stages.predictor import predict_part
from emo_ray.stages.result import Result
from emo_ray.stages.segment import LongRecordings
from emo_ray.stages.transcripts import is_configured
from emo_ray.training.in_memory import own_device

VERSION = 3  # 2: what each modality gives alone; 3: and what the others give without it, distances, attention
# Of PredictActor, but for its device.
ActorArguments = tuple[Config, Path, TextTables | None, ClipSpeakers | None, dict[str, Path], Path]


@dataclass(frozen=True)
class PredictionParts:
    """One model's predictions of shard parts: their folder, and all that decides a row beside its clip."""

    folder: Path
    decides: dict[str, Any]
    clips_per_s: float | None = None  # of this run with its start; None where nothing was left to do


def predict(config: Config) -> Result:
    """Predict every clip that `config.data` names (a table, a folder of media, or a folder that prepare made).

    Recordings in a folder of media that are too long for a clip are cut into utterances where `segment.auto` is set.
    Raises ValueError where `checkpoint` is missing or no model. Clips without any usable modality get a row that says
    so, and no probabilities. Where clips are spans of recordings, rows say of which and when, and files beside them
    show each recording's emotion over time.
    """
    path = folder_of(config)
    config = of_checkpoint(config, path)
    has_people = config.media.face.which == "all"
    if has_people:
        check_people(config)
    models = load_models(config, path)  # says what is wrong with a checkpoint before anything else is done
    long_recordings = LongRecordings()
    plan = plan_corpus(config, long_recordings)
    if is_configured(config) or has_people:
        # All sound is transcribed, and all people are found, before the first clip is predicted.
        plan = decode(config, plan)
    texts = texts_of(config, plan, plan.clips)
    clip_ids = {clip.clip_id for clip in plan.clips}
    parts = predict_parts(config, path, plan, texts, clip_ids, clip_ids)
    clips = texts.in_clips(plan.clips)
    recordings = timelines.recordings_of(clips, long_recordings.unspoken)
    corpus = PredictedCorpus(parts.folder, plan, clips, recordings, models.labels, path)
    meta = {"kind": "predictions", **parts.decides, "parts": list(plan.clips_of), **corpus.decides()}
    folder = cluster.store_root(config) / "predictions" / store.digest(meta)
    if store.missing(folder, plan.clips_of):
        store.remove(folder / store.META)  # where somebody has taken parts away

    first: list[Answer] = []

    def fill(temporary: Path) -> dict[str, Any]:
        first.extend(prediction_files.write(temporary, corpus))
        *counts, unusable = _tally_of_parts(parts.folder, plan.clips_of, models.labels).tolist()
        return {"counts": dict(zip(models.labels, counts, strict=True)), "unusable": unusable}

    about = store.artefact(folder, meta, fill)
    shown = first[:TABLE_ROWS] or prediction_files.first_answers(folder, corpus, TABLE_ROWS)
    return _result(folder, corpus, about, shown, parts.clips_per_s)


def _result(
    folder: Path, corpus: PredictedCorpus, about: dict[str, Any], first: Sequence[Answer], clips_per_s: float | None
) -> Result:
    """What a person is shown of predictions, among it the `first` clips to look at."""
    rows = sum(about["counts"].values()) + about["unusable"]
    content = {
        "clips": rows,
        "predicted": about["counts"],
        "without any usable modality": about["unusable"],
        "clips/s": clips_per_s and round(clips_per_s, 1),
    }
    tables = [table(first, rows, corpus.temperature is not None)]
    if rows > len(first):
        counts = about["counts"] | ({UNUSABLE: about["unusable"]} if about["unusable"] else {})
        tables.append(summary_table("Clips by predicted class", counts, "class"))
    lines = []
    if corpus.has_people:
        clip_count = len({shards.clip_and_person(clip.clip_id)[0] for clip in corpus.clips})
        lines.append(f"rows of {plural(clip_count, 'clip')}: one for each person who is seen (media.face.which=all)")
    if corpus.recordings:
        count = plural(len(corpus.recordings), "recording")
        lines.append(f"emotion over time in {count}: {folder / timelines.FOLDER}")
    lines.append(
        f"a card for each clip: {folder / prediction_files.PAGE}; the numbers: {folder / prediction_files.CSV}"
    )
    return Result(folder, content, tables, lines)


def predict_parts(
    config: Config, path: Path, plan: ShardPlan, texts: TextSources, corpus: Collection[str],
    clip_ids: Collection[str],
) -> PredictionParts:  # fmt: skip
    """Predict the parts of a plan that this model has not predicted yet, each into a file of the same name.

    They lie in one folder for all corpora and runs of a model; where it standardises by speaker, for all runs with the
    same clips of each speaker. `corpus` are the clip_ids that feature tables from elsewhere should know, `clip_ids`
    those that predictions are wanted of: with them come others of the same parts.
    """
    speakers = clip_speakers.planned(path, plan, clip_ids)
    models = load_models(config, path, texts=texts, speakers=speakers)
    for encoder in models.encoders.values():
        external_tables.check(encoder, corpus)
    windows = windows_of(plan.clips, models.head.offsets)
    parts = planned_parts(config, models, plan, windows)
    missing = store.missing(parts.folder, plan.clips_of)
    if not missing:
        return parts
    if speakers is not None:
        encoders = list(models.encoders.values())
        models = replace(models, speakers=clip_speakers.measured(config, speakers, plan, encoders))
    return replace(parts, clips_per_s=_predict(config, models, plan, missing, parts.folder, windows))


def planned_parts(
    config: Config, models: Models, plan: ShardPlan, windows: Windows | None = None
) -> PredictionParts:  # fmt: skip
    """Where the predictions of a plan's parts lie or will lie, and what decides them.

    With neighbours (`windows`), the predictions of a part depend on the other parts too.
    """
    decides = {
        "version": VERSION,
        "weights": store.digest_path(models.path / WEIGHTS),
        "encoders": {name: encoder.digest for name, encoder in models.encoders.items()},
        "labels": models.labels,
        "shards": plan.folder.name,
        **({"speakers": models.speakers.digest} if models.speakers else {}),
    }
    if windows is not None:
        decides["context"] = store.digest(windows.digest_parts, plan.parts)
    return PredictionParts(cluster.store_root(config) / "predictions" / f"parts-{store.digest(decides)}", decides)


class PredictActor:
    """An actor, or without Ray an object, that predicts shard parts.

    It holds all encoders at once, so that a clip is one pass.
    """

    def __init__(
        self, config: Config, path: Path, texts: TextTables | None, speakers: ClipSpeakers | None,
        feature_folders: Mapping[str, Path], folder: Path, device: str | None = None,
    ):  # fmt: skip
        self.models = load_models(config, path, device or actor_device(), texts, speakers)
        self.feature_folders, self.folder = feature_folders, folder
        self.patience_s = config.media.patience_s

    def __call__(self, row: dict) -> dict:
        """Predict the part `row["shard"]` (a path), unless it is predicted.

        Returns the number of its `clips`, and what is `unread` (see trouble.unread): of its media, where `row` says so,
        or of feature tables. Then there are no predictions.
        """
        unread = row["unread"] or trouble.unread(lambda: trouble.in_rounds(self._predict, [row], self.patience_s))
        out = self.folder / Path(row["shard"]).name
        return {"clips": 0 if unread else pq.read_metadata(store.local(out)).num_rows, "unread": unread}

    def _predict(self, row: dict) -> None:
        shard = Path(row["shard"])
        out = self.folder / shard.name
        if not store.exists(out):  # else Ray asks again because the answer was on a node that is gone
            feature_paths = {name: folder / shard.name for name, folder in self.feature_folders.items()}
            predict_part(self.models, shard, feature_paths, out, pickle.loads(row["near"]))


def _predict(
    config: Config, models: Models, plan: ShardPlan, missing: Sequence[str], folder: Path, windows: Windows | None
) -> float:
    """Predict these parts while missing shards are decoded; returns the clips per second.

    Raises PlaceTrouble at the end where media or feature tables could not be read; their parts are left out.
    """
    start_s = time.monotonic()
    near_of: dict[str, Near] = {}
    if windows is not None:
        decode(config, plan)  # neighbours may lie in any part
        near_of = near_parts(config, list(models.encoders.values()), plan, missing, windows)
    tasks = decode_tasks(plan)
    feature_folders = {name: feature_folder(config, plan.folder, encoder) for name, encoder in models.encoders.items()}
    rows = [{"shard": str(plan.folder / name), "task": tasks.get(name, b""), "unread": ""} for name in missing]
    rows = [row | {"near": pickle.dumps(near_of.get(name))} for row, name in zip(rows, missing, strict=True)]
    arguments = config, models.path, models.texts, models.speakers, feature_folders, folder
    clips = 0
    unread = []
    total = sum(len(plan.clips_of[name]) for name in missing)
    is_here = config.train.num_workers == 0 or resources.stays_here(config, len(rows), total)
    run = _in_this_process if is_here else _in_actors
    with progress("predicting", total, "clips") as advance:
        for row in run(config, rows, arguments):
            clips += row["clips"]
            unread.append(row["unread"])
            advance(row["clips"])
    trouble.check_read(unread)
    return clips / (time.monotonic() - start_s)


def _in_this_process(config: Config, rows: list[dict], arguments: ActorArguments) -> Iterator[dict]:
    """Decode and predict one part after the other. `arguments` are those of `PredictActor`."""
    with own_device(config) as device:
        actor = PredictActor(*arguments, device.type)
        for row in rows:
            yield actor({**row, "unread": shards.write_pickled_part(row["task"]) if row["task"] else ""})


def _in_actors(config: Config, rows: list[dict], arguments: ActorArguments) -> Iterator[dict]:
    """Decode in Ray Data tasks and predict in actors. `arguments` are those of `PredictActor`."""
    import ray.data

    cluster.connect(config)

    def decode(row: dict) -> dict:  # nested functions travel by value: workers import only what they use
        return {
            "shard": row["shard"],
            "near": row["near"],
            "unread": shards.write_pickled_part(row["task"]) if row["task"] else "",
        }

    dataset: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    must_decode = any(row["task"] for row in rows)
    if must_decode:  # else no task has to wait for a CPU that actors hold, which they all do once a node is lost
        # Were these tasks to ask for as much as the actors, Ray would run them inside the actors, and a GPU would wait
        # for decoding; apart, they also decode while the actors load their models.
        dataset = dataset.map(decode, **resources.task_resources(0.9))
    actor = {"fn_constructor_args": arguments, **actor_pool(config, len(rows))}
    actor_class: Any = PredictActor  # Ray's types know functions alone
    yield from dataset.map(actor_class, **actor).iter_rows()


def _tally_of_parts(folder: Path, names: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    counts = np.zeros(len(labels) + 1, np.int64)
    for name in names:
        counts += tally(parquet.read(folder / name, columns=["prediction"])["prediction"], labels)
    return counts
