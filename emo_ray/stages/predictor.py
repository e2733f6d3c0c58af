"""What predicts: a model with its encoders, and shard rows to rows of predictions with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import transcripts
from emo_ray.data.batch import FeatureBatch, from_features, with_context
from emo_ray.models import checkpoint
from emo_ray.models.checkpoint_files import read_config
from emo_ray.models.head_average import Head
from emo_ray.stages.encoding.actor import encode_rows, shard_columns
from emo_ray.stages.encoding.clip_speakers import ClipSpeakers
from emo_ray.stages.encoding.encoders import EncoderSpec, encoders_of, of_checkpoint
from emo_ray.stages.encoding.neighbours import Near
from emo_ray.stages.encoding.text_sources import NO_TEXTS, TextSources
from emo_ray.stages.prediction_rows import ALONE, TOGETHER, prediction_table, tally

_ROWS_PER_GROUP = 2**12


@dataclass(frozen=True)
class Models:
    """What predicts: a checkpoint's fusion head, and by modality the encoders of those that it was trained on."""

    path: Path
    labels: tuple[str, ...]
    head: Head
    encoders: dict[str, EncoderSpec]
    modules: Mapping[str, Callable[[], Any]]  # what an encoder builds; the first call loads it
    device: str
    texts: TextSources  # for the encoder of text
    speakers: ClipSpeakers | None = None  # where the model standardises features by speaker


def load_models(
    config: Config, path: Path, device: str = "cpu", texts: TextSources = NO_TEXTS, speakers: ClipSpeakers | None = None
) -> Models:
    """The model in a checkpoint folder, to predict with in this process; encoders are loaded when clips need them."""
    config = of_checkpoint(config, path)
    head = checkpoint.load_fusion(path).to(device)
    # Sound or text that no training clip had cannot be used, though there is an encoder.
    all_encoders = encoders_of(config, path, texts)
    encoders = {encoder.modality: encoder for encoder in all_encoders if encoder.modality in head.project}
    modules = {name: cache(partial(encoder.built, device)) for name, encoder in encoders.items()}
    return Models(path, read_config(path)[1], head, encoders, modules, device, texts, speakers)


def predict_part(
    models: Models, shard: Path, feature_paths: Mapping[str, Path], out: Path, near: Near | None = None
) -> np.ndarray:
    """Predict the rows of one shard part into one predictions part; returns how many were given each label.

    `feature_paths` names the feature part of each modality: those that exist are read, others are encoded and not kept.
    A model with context also needs where the neighbours of the clips are.
    The counts are int64 (K + 1), in the order of the labels, and last the rows without any usable modality.
    """
    features = {name: store.read_parquet(file) for name, file in feature_paths.items() if file.exists()}
    needed = {media for name, encoder in models.encoders.items() if name not in features for media in encoder.reads}
    table = store.read_parquet(shard, columns=shard_columns(sorted(needed)))
    if "text" in models.encoders:
        table = transcripts.filled(table, models.encoders["text"].transcripts)
    batch, table = _with_features(models, table, features)
    if near is not None:
        neighbours = from_features(near.features())
        neighbours = neighbours if models.speakers is None else models.speakers.applied(neighbours)
        batch = with_context(batch, neighbours, near.windows)
    predictions = prediction_table(table, batch.present_BM.numpy(), _shown(models, batch), models.labels)
    store.write_parquet(out, predictions, _ROWS_PER_GROUP)
    return tally(predictions["prediction"], models.labels)


def _with_features(models: Models, table: pa.Table, stored: Mapping[str, pa.Table]) -> tuple[FeatureBatch, pa.Table]:
    """Shard rows as a batch of features, stored ones or as the encoders give them, and the rows with their statuses.

    Where a modality comes from feature tables, its statuses are the tables'.
    """
    columns = table.select(["clip_id"])
    for name, encoder in models.encoders.items():
        if not encoder.wanted(table):
            continue  # nobody has it: no need to load a model
        features = stored.get(name)
        if features is None:
            features = encode_rows(encoder, models.modules[name](), table, models.device)
        assert features["clip_id"].equals(table["clip_id"]), f"the rows of the {name} features differ from the shard's"
        if encoder.sources:
            status = f"{name}_status"
            table = table.set_column(table.column_names.index(status), status, features["status"])
        columns = columns.append_column(name, features["feature"])
        columns = columns.append_column(f"has_{name}", features["present"])
    batch = from_features(columns)
    return batch if models.speakers is None else models.speakers.applied(batch), table


@torch.inference_mode()
def _shown(models: Models, batch: FeatureBatch) -> dict[str, np.ndarray]:
    """Probabilities (B, K) by column: of a head that is shown all that each clip has, or a single modality of it.

    Raises ValueError where one is not finite.
    """
    batch = batch.to(models.device)
    alone_MM = torch.eye(len(MODALITIES), dtype=torch.bool, device=batch.present_BM.device)
    batches = {TOGETHER: batch}
    batches |= {column: batch.showing(alone_M) for column, alone_M in zip(ALONE.values(), alone_MM, strict=True)}
    return {column: models.head(b).probabilities_BK(b.clip_ids).cpu().numpy() for column, b in batches.items()}
