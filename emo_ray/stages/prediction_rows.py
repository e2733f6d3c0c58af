"""The rows of a table of predictions: one for each clip, or for each person in it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables
from emo_ray.inference.classifier import ALONE, TOGETHER, WITHOUT

UNUSABLE = "no usable modality"
DISTANCE = {name: f"distance_{name[0].upper()}" for name in MODALITIES}  # see models.familiarity
ATTENTION = "attention"  # over frames; null where the video's features were not computed by this job


@dataclass(frozen=True)
class Answers:
    """What a model says of B clips."""

    present_BM: np.ndarray  # bool
    probabilities: Mapping[str, np.ndarray]  # (B, K) for each of TOGETHER, ALONE and WITHOUT
    distances: Mapping[str, np.ndarray]  # modality -> (B,), NaN where a clip lacks it
    attention: Sequence[Sequence[float] | None]  # of B clips over their frames


def prediction_table(shard: pa.Table, answers: Answers, labels: Sequence[str]) -> pa.Table:
    """One row a clip. `has_...` says what its prediction rests on; without any there is no prediction."""
    present_BM = answers.present_BM
    probabilities = answers.probabilities
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
        **{
            column: listed(column, np.asarray(np.delete(present_BM, m, axis=1).any(axis=1)))
            for m, column in enumerate(WITHOUT.values())
        },
        **{
            DISTANCE[name]: where(~np.isnan(distance_B), distance_B.tolist(), pa.float32())
            for name, distance_B in answers.distances.items()
        },
        ATTENTION: pa.array(answers.attention, pa.list_(pa.float32())),
    }
    return pa.table(columns, metadata=clip_tables.metadata_of(labels))


def matrix(column: pa.ChunkedArray, classes: int) -> np.ndarray:
    """A column of lists as float32 (B, K); null is a row of NaN. Raises ValueError for values that are not finite."""
    values_BK = np.full((len(column), classes), np.nan, np.float32)
    known_BK = column.combine_chunks().flatten().to_numpy().reshape(-1, classes)
    if not np.isfinite(known_BK).all():
        raise ValueError(
            "predictions: found probabilities that are not finite, expected numbers: predict again with a whole model"
        )
    values_BK[column.is_valid().to_numpy()] = known_BK
    return values_BK


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
