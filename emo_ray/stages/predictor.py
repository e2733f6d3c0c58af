"""The rows of a shard part to rows of predictions, by one model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emo_ray import parquet, store
from emo_ray.data import transcripts
from emo_ray.data.batch import from_features, with_context
from emo_ray.inference.classifier import Models, shown_probabilities, with_features
from emo_ray.inference.encoding import shard_columns
from emo_ray.models import familiarity
from emo_ray.stages.encoding.neighbours import Near
from emo_ray.stages.prediction_rows import Answers, prediction_table, tally


def predict_part(
    models: Models, shard: Path, feature_paths: Mapping[str, Path], out: Path, near: Near | None = None
) -> np.ndarray:
    """Predict the rows of one shard part into one predictions part; returns how many were given each label.

    `feature_paths` names the feature part of each modality: those that exist are read, others are encoded and not kept.
    A model with context also needs where the neighbours of the clips are.
    The counts are int64 (K + 1), in the order of the labels, and last the rows without any usable modality.
    """
    features = {name: parquet.read(file) for name, file in feature_paths.items() if store.exists(file)}
    needed = {media for name, encoder in models.encoders.items() if name not in features for media in encoder.reads}
    table = parquet.read(shard, columns=shard_columns(sorted(needed)))
    if "text" in models.encoders:
        table = transcripts.filled(table, models.encoders["text"].transcripts)
    batch, encoded_table, attention = with_features(models, table, features)
    if near is not None:
        neighbours = from_features(near.features())
        neighbours = neighbours if models.speakers is None else models.speakers.applied(neighbours)
        batch = with_context(batch, neighbours, near.windows)
    distances = familiarity.distances(models.head, batch.to(models.device))
    answers = Answers(batch.present_BM.numpy(), shown_probabilities(models, batch), distances, attention)
    predictions = prediction_table(encoded_table, answers, models.labels)
    parquet.write(out, predictions, parquet.LIGHT_ROWS)
    return tally(predictions["prediction"], models.labels)
