"""teachers: what the models that give pseudo-labels say of unlabelled clips, and how sure they may be.

Several are an ensemble: each is calibrated by itself, and their calibrated probabilities are averaged.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_ray.config import Config, override
from emo_ray.models import checkpoint_files
from emo_ray.stages.features import of_checkpoint
from emo_ray.stages.fitting.plan import parts_with
from emo_ray.stages.predict import ALONE, TOGETHER, Made, load_models, make_parts
from emo_ray.stages.prepare import Prepared, plan_some_parts
from emo_ray.training import calibration


@dataclass(frozen=True)
class Teacher:
    """A model whose predictions are made, and the labelled clips that it may be calibrated on (class by clip_id)."""

    path: Path
    made: Made
    unseen: dict[str, int]
    temperature: float = 1.0

    @property
    def digest(self) -> str:
        """Of its weights."""
        return self.made.decides["weights"]


@dataclass(frozen=True)
class TeacherPredictions:
    """What T teachers say of B rows of a part; rows nobody can say anything of hold NaN, and votes of -1."""

    table: pa.Table  # the first teacher's
    probability_BK: np.ndarray  # means, float32
    calibrated_BK: np.ndarray
    alone_BK: dict[str, np.ndarray]  # by column: what each modality gives alone
    votes_TB: np.ndarray  # the class that each teacher gives

    @property
    def prediction_B(self) -> np.ndarray:
        """The likeliest class."""
        return votes(self.calibrated_BK)

    @property
    def confidence_B(self) -> np.ndarray:
        """Its calibrated probability."""
        return self.calibrated_BK.max(axis=1)

    @property
    def votes_MB(self) -> np.ndarray:
        """The class that each modality gives alone."""
        return np.stack([votes(alone_BK) for alone_BK in self.alone_BK.values()])


def gather(config: Config, paths: Sequence[Path], prepared: Prepared, pool: Collection[str]) -> list[Teacher]:
    """The models in these folders as teachers of the clips in `pool`; missing predictions are made.

    `config` is the first one's own. Raises ValueError where others know other classes.
    """
    corpus = {clip.clip_id for clip in prepared.clips}
    teachers = []
    for path in paths:
        own = _config_of(config, path, prepared.labels)
        unseen = _unseen(prepared, path)
        parts = parts_with(prepared, {*pool, *unseen})
        teachers.append(Teacher(path, make_parts(own, path, plan_some_parts(own, prepared, parts), corpus), unseen))
    return teachers


def calibrate(teachers: Sequence[Teacher], prepared: Prepared) -> tuple[list[Teacher], list[dict]]:
    """The teachers with their temperatures, and for each what changed (n, temperature, ece and nll before and after).

    After them one for the mean of them all, on the clips that none was trained on, where there are several teachers and
    such clips. `reliability` of each holds the bins before and after.
    """
    fitted, about, known = [], [], []
    for teacher in teachers:
        ids, probability_BK = _read(teacher, parts_with(prepared, teacher.unseen), teacher.unseen)
        label_B = np.array([teacher.unseen[clip_id] for clip_id in ids], int)
        temperature = calibration.fit_temperature(probability_BK, label_B)
        fitted.append(replace(teacher, temperature=temperature))
        after_BK = calibration.calibrated(probability_BK, temperature)
        own = {"checkpoint": teacher.path.name, "digest": teacher.digest, "temperature": temperature}
        about.append(own | _change(probability_BK, after_BK, label_B))
        known.append((dict(zip(ids, probability_BK, strict=True)), dict(zip(ids, after_BK, strict=True))))
    common = sorted(set.intersection(*(set(before) for before, _ in known)))
    if len(teachers) > 1 and common:
        label_B = np.array([teachers[0].unseen[clip_id] for clip_id in common])
        means = [mean(np.array([[one[which][i] for i in common] for one in known])) for which in (0, 1)]
        about.append({"checkpoint": "the mean of all"} | _change(*means, label_B))
    return fitted, about


def predictions_of(teachers: Sequence[Teacher], part: str, pool: Collection[str]) -> TeacherPredictions:
    """What the teachers say of the rows of a part that are in `pool`."""
    tables = [pq.read_table(teacher.made.folder / part) for teacher in teachers]
    rows = pa.array([clip_id in pool for clip_id in tables[0]["clip_id"].to_pylist()])
    tables = [table.filter(rows) for table in tables]
    assert all(table["clip_id"].equals(tables[0]["clip_id"]) for table in tables), f"{part}: teachers differ in rows"
    classes = len(teachers[0].made.decides["labels"])
    each = [matrix(table[TOGETHER], classes) for table in tables]
    sure = [calibration.calibrated(own, teacher.temperature) for own, teacher in zip(each, teachers, strict=True)]
    alone = {c: mean(np.stack([matrix(table[c], classes) for table in tables])) for c in ALONE.values()}
    votes_TB = np.stack([votes(own_BK) for own_BK in each])
    return TeacherPredictions(tables[0], mean(np.stack(each)), mean(np.stack(sure)), alone, votes_TB)


def matrix(column: pa.ChunkedArray, classes: int) -> np.ndarray:
    """A column of lists as float32 (B, K); null is a row of NaN."""
    values_BK = np.full((len(column), classes), np.nan, np.float32)
    values_BK[column.is_valid().to_numpy()] = column.combine_chunks().flatten().to_numpy().reshape(-1, classes)
    return values_BK


def mean(values_TBK: np.ndarray) -> np.ndarray:
    """Over those of T that are no NaN; (B, K)."""
    known_TB = ~np.isnan(values_TBK).any(axis=2)
    count_B1 = known_TB.sum(axis=0)[:, None].astype(np.float32)
    unknown_BK = np.full(values_TBK.shape[1:], np.nan, np.float32)
    return np.divide(np.nansum(values_TBK, axis=0), count_B1, out=unknown_BK, where=count_B1 > 0)


def votes(values_BK: np.ndarray) -> np.ndarray:
    """The class of the highest value of each row, int64 (B,); -1 where the row is NaN."""
    return np.where(np.isnan(values_BK).any(axis=1), -1, values_BK.argmax(axis=1))


def _config_of(config: Config, path: Path, labels: Sequence[str]) -> Config:
    """A teacher's own config on the parts of the first."""
    own = of_checkpoint(config, path)
    theirs = load_models(own, path).labels
    if theirs != tuple(labels):
        raise ValueError(
            f"pseudo.teachers: found the classes {', '.join(theirs)} in {path}, expected {', '.join(labels)}: teachers "
            "of one ensemble know the same classes in the same order"
        )
    return override(own, {"media.clips_per_part": config.media.clips_per_part})


def _unseen(prepared: Prepared, path: Path) -> dict[str, int]:
    """The labelled clips that a model was not trained on, those of test left alone; class by clip_id.

    Those are of the validation split, its own where it was trained with another.
    """
    seen = path / checkpoint_files.SEEN
    split_of = json.loads(seen.read_text(encoding="utf-8")) if seen.is_file() else {}
    index = {label: i for i, label in enumerate(prepared.labels)}
    return {
        clip.clip_id: index[clip.label]
        for clip in prepared.clips
        if clip.label is not None
        and clip.split in ("train", "validation")
        and split_of.get(clip.clip_id, clip.split) == "validation"
    }


def _read(teacher: Teacher, parts: Iterable[str], wanted: Mapping[str, int]) -> tuple[list[str], np.ndarray]:
    """The wanted clips that it has predicted, and their probabilities (B, K)."""
    ids, found, classes = [], [], len(teacher.made.decides["labels"])
    for part in parts:
        table = pq.read_table(teacher.made.folder / part, columns=["clip_id", TOGETHER])
        own_B = np.array([clip_id in wanted for clip_id in table["clip_id"].to_pylist()], bool)
        table = table.filter(pa.array(own_B & table[TOGETHER].is_valid().to_numpy()))
        ids += table["clip_id"].to_pylist()
        found.append(matrix(table[TOGETHER], classes))
    return ids, np.concatenate([np.zeros((0, classes), np.float32), *found])


def _change(before_BK: np.ndarray, after_BK: np.ndarray, label_B: np.ndarray) -> dict:
    """What calibration did; None where there were no clips to see it on."""
    bins = {name: calibration.reliability(p, label_B) for name, p in (("before", before_BK), ("after", after_BK))}
    nll = {"before": before_BK, "after": after_BK}
    return {
        "n": len(label_B),
        "ece": {name: _number(own.error) for name, own in bins.items()},
        "nll": {name: _number(calibration.negative_log_likelihood(p, label_B)) for name, p in nll.items()},
        "reliability": {
            name: {key: [_number(v) for v in values.tolist()] for key, values in asdict(own).items()}
            for name, own in bins.items()
        },
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
