"""The rows of a table of predictions: one for each clip, or for each person in it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.inference.classifier import ALONE, TOGETHER

UNUSABLE = "no usable modality"


def prediction_table(
    shard: pa.Table, present_BM: np.ndarray, probabilities: Mapping[str, np.ndarray], labels: Sequence[str]
) -> pa.Table:
    """One row a clip. `has_...` says what its prediction rests on; without any there is no prediction."""
    usable_B = np.asarray(present_BM.any(axis=1))
    together_BK = probabilities[TOGETHER]

    def where(usable_B: np.ndarray, values: Iterable, kind: pa.DataType) -> pa.Array:
        return pa.array([value if usable else None for value, usable in zip(values, usable_B, strict=True)], kind)

    def listed(column: str, usable_B: np.ndarray) -> pa.Array:
        return where(usable_B, probabilities[column].tolist(), pa.list_(pa.float32()))

    columns = {
        "clip_id": shard["clip_id"],
        **{f"has_{name}": pa.array(present_BM[:, m]) for m, name in enumerate(MODALITIES)},
        **{f"{name}_status": shard[f"{name}_status"] for name in MODALITIES},
        "status": pa.array(["ok" if ok else UNUSABLE for ok in usable_B]),
        TOGETHER: listed(TOGETHER, usable_B),
        "prediction": where(usable_B, [labels[k] for k in together_BK.argmax(axis=1)], pa.string()),
        "confidence": where(usable_B, together_BK.max(axis=1).tolist(), pa.float32()),
        **{column: listed(column, present_BM[:, m]) for m, column in enumerate(ALONE.values())},
    }
    return pa.table(columns, metadata={"labels": json.dumps(list(labels), ensure_ascii=False)})


def tally(prediction: pa.ChunkedArray, labels: Sequence[str]) -> np.ndarray:
    """How many clips have each label, int64 (K + 1), and last how many have none."""
    counts = Counter(prediction.to_pylist())
    return np.array([counts[label] for label in (*labels, None)], np.int64)


def check_people(config: Config) -> None:
    """Raise ValueError where the model takes something for a clip's that is not a person's."""
    problems = {
        f"tables.{name}": "rows of feature tables are of clips and not of people" for name in config.tables.given
    }
    if config.tables.standardise == "speaker":
        problems["tables.standardise=speaker"] = "a clip's speaker may be any of the people who are seen in it"
    if config.fusion.context.offsets:
        problems["fusion.context"] = "neighbours are clips and not people"
    for setting, reason in problems.items():
        raise ValueError(
            f"media.face.which=all: found {setting}, expected none, for {reason}: take media.face.which=main, or a "
            "model that was trained without it"
        )
