"""teachers: what the models that give pseudo-labels say of unlabelled clips, and how sure they may be.

Several are an ensemble: each is calibrated by itself, and their calibrated probabilities are averaged.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import parquet, store
from emo_ray.config import Config, override
from emo_ray.data.dialogues import windows_of, with_neighbours
from emo_ray.data.prepared import LabelOf, Prepared
from emo_ray.inference.classifier import ALONE, TOGETHER, WITHOUT
from emo_ray.inference.encoders import of_checkpoint
from emo_ray.models.checkpoint_files import SEEN, read_calibration, read_config
from emo_ray.reports.pseudo_labels import Calibration
from emo_ray.stages.corpus import Corpus, for_config
from emo_ray.stages.decoding.shard_plan import plan_some_parts
from emo_ray.stages.predict import PredictionParts, predict_parts
from emo_ray.stages.prediction_rows import matrix
from emo_ray.training import calibration


@dataclass(frozen=True)
class Teacher:
    """A model whose predictions are made, and the labelled clips that it may be calibrated on."""

    path: Path
    predictions: PredictionParts
    unseen: LabelOf
    temperature: float = 1.0

    @property
    def digest(self) -> str:
        """The digest of its weights."""
        return self.predictions.decides["weights"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes, in the order of its probabilities."""
        return self.predictions.decides["labels"]


@dataclass(frozen=True)
class TeacherPredictions:
    """What T teachers say of B rows of a part; rows nobody can say anything of hold NaN, and votes of -1."""

    table: pa.Table  # the first teacher's
    probability_BK: np.ndarray  # means, float32
    calibrated_BK: np.ndarray
    alone_BK: dict[str, np.ndarray]  # by column: what each modality gives alone
    without_BK: dict[str, np.ndarray]  # by column: what the others give without it
    votes_TB: np.ndarray  # the class that each teacher gives

    @property
    def prediction_B(self) -> np.ndarray:
        """The likeliest class."""
        return votes(self.calibrated_BK)

    @property
    def confidence_B(self) -> np.ndarray:
        """The calibrated probability of the likeliest class."""
        return self.calibrated_BK.max(axis=1)

    @property
    def votes_MB(self) -> np.ndarray:
        """The class that each modality gives alone."""
        return np.stack([votes(alone_BK) for alone_BK in self.alone_BK.values()])


def gather(config: Config, paths: Sequence[Path], corpus: Corpus, pool: Collection[str]) -> list[Teacher]:
    """The models in these folders as teachers of the clips in `pool`; missing predictions are made.

    `config` is the first one's own. Raises ValueError where others know other classes.
    """
    prepared = corpus.prepared
    teachers = []
    clip_ids = {clip.clip_id for clip in prepared.clips}
    for path in paths:
        teacher_config = _config_of(config, path, prepared.labels)
        unseen = _unseen(prepared, path)
        windows = windows_of(prepared.clips, teacher_config.fusion.context.offsets)
        needed = with_neighbours({*pool, *unseen}, windows)
        plan = plan_some_parts(teacher_config, prepared, prepared.parts_with(needed))
        corpus = for_config(corpus, teacher_config, {clip.clip_id for clip in plan.clips})
        texts = corpus.texts_for({clip.clip_id for clip in plan.clips})
        teachers.append(Teacher(path, predict_parts(teacher_config, path, plan, texts, clip_ids, needed), unseen))
    return teachers


def calibrate(teachers: Sequence[Teacher], prepared: Prepared) -> tuple[list[Teacher], list[Calibration]]:
    """The teachers with their temperatures, and for each what changed (n, temperature, ece and nll before and after).

    A teacher without clips to calibrate it on keeps the temperature that its training fitted, or 1 where it has none.
    After them one for the mean of them all, on the clips that none was trained on, where there are several teachers and
    such clips. `reliability` of each holds the bins before and after.
    """
    calibrated: list[Teacher] = []
    changes: list[Calibration] = []
    before_of: list[dict[str, np.ndarray]] = []  # for each teacher, clip_id -> probabilities (K,)
    after_of: list[dict[str, np.ndarray]] = []
    for teacher in teachers:
        ids, probability_BK = _read(teacher, prepared.parts_with(teacher.unseen), teacher.unseen)
        label_B = np.array([teacher.unseen[clip_id] for clip_id in ids], int)
        temperature = _temperature(teacher, probability_BK, label_B)
        calibrated.append(replace(teacher, temperature=temperature))
        after_BK = calibration.calibrated(probability_BK, temperature)
        about = {"checkpoint": teacher.path.name, "digest": teacher.digest, "temperature": temperature}
        changes.append(about | calibration.change(probability_BK, after_BK, label_B))
        before_of.append(dict(zip(ids, probability_BK, strict=True)))
        after_of.append(dict(zip(ids, after_BK, strict=True)))
    common = sorted(set.intersection(*(set(before) for before in before_of)))
    if len(teachers) > 1 and common:
        label_B = np.array([teachers[0].unseen[clip_id] for clip_id in common])
        before_BK, after_BK = (
            mean(np.array([[probabilities[clip_id] for clip_id in common] for probabilities in each]))
            for each in (before_of, after_of)
        )
        changes.append({"checkpoint": "the mean of all"} | calibration.change(before_BK, after_BK, label_B))
    return calibrated, changes


def predictions_of(teachers: Sequence[Teacher], part: str, pool: Collection[str]) -> TeacherPredictions:
    """What the teachers say of the rows of a part that are in `pool`."""
    tables = [parquet.read(teacher.predictions.folder / part) for teacher in teachers]
    rows = pa.array([clip_id in pool for clip_id in tables[0]["clip_id"].to_pylist()])
    tables = [table.filter(rows) for table in tables]
    assert all(table["clip_id"].equals(tables[0]["clip_id"]) for table in tables), f"{part}: teachers differ in rows"
    classes = len(teachers[0].labels)
    each_BK = [matrix(table[TOGETHER], classes) for table in tables]
    calibrated_BK = [
        calibration.calibrated(values_BK, teacher.temperature)
        for values_BK, teacher in zip(each_BK, teachers, strict=True)
    ]
    alone_BK, without_BK = (
        {column: mean(np.stack([matrix(table[column], classes) for table in tables])) for column in columns.values()}
        for columns in (ALONE, WITHOUT)
    )
    votes_TB = np.stack([votes(values_BK) for values_BK in each_BK])
    means_BK = mean(np.stack(each_BK)), mean(np.stack(calibrated_BK))
    return TeacherPredictions(tables[0], *means_BK, alone_BK, without_BK, votes_TB)


def mean(values_TBK: np.ndarray) -> np.ndarray:
    """The mean over T of the values that are no NaN; (B, K)."""
    known_TB = ~np.isnan(values_TBK).any(axis=2)
    count_B1 = known_TB.sum(axis=0)[:, None].astype(np.float32)
    unknown_BK = np.full(values_TBK.shape[1:], np.nan, np.float32)
    return np.divide(np.nansum(values_TBK, axis=0), count_B1, out=unknown_BK, where=count_B1 > 0)


def votes(values_BK: np.ndarray) -> np.ndarray:
    """The class of the highest value of each row, int64 (B,); -1 where the row is NaN."""
    return np.where(np.isnan(values_BK).any(axis=1), -1, values_BK.argmax(axis=1))


def _config_of(config: Config, path: Path, labels: Sequence[str]) -> Config:
    """A teacher's own config on the parts of the first."""
    teacher_config = of_checkpoint(config, path)
    _, teacher_labels = read_config(path)
    if teacher_labels != tuple(labels):
        raise ValueError(
            f"pseudo.teachers: found the classes {', '.join(teacher_labels)} in {path}, expected {', '.join(labels)}: "
            "teachers of one ensemble know the same classes in the same order"
        )
    return override(teacher_config, {"media.clips_per_part": config.media.clips_per_part})


def _unseen(prepared: Prepared, path: Path) -> LabelOf:
    """The labelled clips that a model was not trained on, those of test left alone.

    These are clips of the validation split: of its own where it was trained with another one.
    """
    seen = path / SEEN
    split_of = store.read_json(seen) if seen.is_file() else {}
    index = {label: k for k, label in enumerate(prepared.labels)}
    return {
        clip.clip_id: index[clip.label]
        for clip in prepared.clips
        if clip.label is not None
        and clip.split in ("train", "validation")
        and split_of.get(clip.clip_id, clip.split) == "validation"
    }


def _temperature(teacher: Teacher, probability_BK: np.ndarray, label_B: np.ndarray) -> float:
    """The temperature that fits these clips best; without clips the one that its checkpoint holds."""
    stored = None if len(label_B) else read_calibration(teacher.path)
    return stored["temperature"] if stored else calibration.fit_temperature(probability_BK, label_B)


def _read(teacher: Teacher, parts: Iterable[str], label_of: Mapping[str, int]) -> tuple[list[str], np.ndarray]:
    """The clips of `label_of` that a teacher has predicted, and their probabilities (B, K)."""
    classes = len(teacher.labels)
    ids: list[str] = []
    probabilities = [np.zeros((0, classes), np.float32)]
    for part in parts:
        table = parquet.read(teacher.predictions.folder / part, columns=["clip_id", TOGETHER])
        chosen_B = np.array([clip_id in label_of for clip_id in table["clip_id"].to_pylist()], bool)
        table = table.filter(pa.array(chosen_B & table[TOGETHER].is_valid().to_numpy()))
        ids += table["clip_id"].to_pylist()
        probabilities.append(matrix(table[TOGETHER], classes))
    return ids, np.concatenate(probabilities)
