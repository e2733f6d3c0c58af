"""The trial of self-training: a teacher with few labels, and students that it taught, on one synthetic world in memory.

It is what jobs/self_train.py does, with labels that are known all along and hidden, in seconds and in one process.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from emo_ray.config import Config, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import UNLABELLED, FeatureBatch
from emo_ray.data.pseudo import PseudoLabels, training_target, with_targets
from emo_ray.experiments.claims.trials import JUDGED, World, fused, video
from emo_ray.models.fusion import FusionHead
from emo_ray.training import calibration, in_memory
from emo_ray.training import pseudo_label_policies as policies
from emo_ray.training.metrics import metrics
from emo_ray.training.scoring import shown_only

ROUNDS = 3
HEADS = ("teacher", "longer", "student", "kept")


@dataclass(frozen=True)
class Clips:
    """What heads are trained, calibrated and judged on."""

    labels: tuple[str, ...]
    pool: FeatureBatch  # training clips, UNLABELLED where the label is hidden, so that a use of it would fail
    known_B: torch.Tensor  # bool
    validation: FeatureBatch
    test: FeatureBatch


def self_training(world: World, config: Config, labelled: int) -> dict[str, float]:
    """A teacher that knows the labels of so many training clips, and students that learn from the others' as well.

    What `teach` measures, and "accepted/share" and "accepted/right" of the first pseudo-labels, which a job could not
    know.
    """
    clips = hidden(world, config, labelled)
    scores, lesson = teach(clips, config)
    return scores | _accepted(world, clips, lesson)


def hidden(world: World, config: Config, labelled: int) -> Clips:
    """The world with all but so many training labels hidden, also from the EmoVCLIP that gives features of video.

    Which are known is drawn by the seed, evenly over classes.
    """
    pool, known_B = world.splits["train"], torch.zeros(len(world.splits["train"]), dtype=torch.bool)
    drawn = {"test_size": labelled, "stratify": pool.label_B.numpy(), "random_state": config.seed}
    known_B[torch.from_numpy(train_test_split(np.arange(len(pool)), **drawn)[1])] = True
    pool = replace(pool, label_B=torch.where(known_B, pool.label_B, UNLABELLED))
    splits = world.splits | {"train": pool.rows(known_B), "pool": pool}
    _, features = video(replace(world, splits=splits), config)
    batches = (fused(splits[name], features[name]) for name in ("pool", *JUDGED))
    usable, validation, test = (batch.rows(batch.present_BM.any(dim=1)) for batch in batches)
    return Clips(world.labels, usable, usable.label_B >= 0, validation, test)


def teach(clips: Clips, config: Config) -> tuple[dict[str, float], FeatureBatch]:
    """Weighted F1 on "validation" and "test", with whatever each clip has ("test/student"), and the student's clips.

    teacher   the head of the labelled clips
    longer    the same for as many steps as the student takes, which could be all that helps it
    student   after one round
    kept      the best on validation after ROUNDS of them; the best so far teaches
    """
    teacher = _fit(clips.pool.rows(clips.known_B), clips, config)
    lesson = taught(teacher, clips, config)
    student = _fit(lesson, clips, config)
    heads = {"teacher": teacher, "longer": _longer(clips, config, len(lesson)), "student": student}
    heads["kept"] = _best(teacher, student, clips, config)
    batches = {"validation": clips.validation, "test": clips.test}
    return {f"{split}/{name}": _waf(heads[name], batches[split]) for name in HEADS for split in JUDGED}, lesson


def taught(teacher: FusionHead, clips: Clips, config: Config) -> FeatureBatch:
    """The labelled clips, and those of the others whose pseudo-labels are accepted, with what to train them towards."""
    judged_BK = shown_only(teacher, clips.validation, MODALITIES)
    temperature = calibration.fit_temperature(judged_BK, clips.validation.label_B.numpy())
    others = clips.pool.rows(~clips.known_B)
    sure_BK = calibration.calibrated(shown_only(teacher, others, MODALITIES), temperature)
    guess_B, nothing_B = sure_BK.argmax(axis=1), np.full(len(others), None, object)
    most = int(config.pseudo.max_ratio * int(clips.known_B.sum()))
    reason_B, _ = policies.select(config.pseudo, sure_BK.max(axis=1), guess_B, nothing_B, clips.labels, most)
    taken = {others.clip_ids[i]: i for i in np.flatnonzero(np.equal(reason_B, None).astype(bool))}
    label_of = {clip_id: int(guess_B[i]) for clip_id, i in taken.items()}
    target_of = {clip_id: training_target(sure_BK[i], label_of[clip_id], config.train) for clip_id, i in taken.items()}
    label_B = clips.pool.label_B.clone()
    label_B[~clips.known_B] = torch.from_numpy(guess_B)
    taken_B = torch.tensor([clip_id in taken for clip_id in clips.pool.clip_ids])
    lesson = replace(clips.pool, label_B=label_B).rows(clips.known_B | taken_B)
    pseudo = PseudoLabels(clips.labels, target_of, label_of, config.train.pseudo_weight, round=1, teacher="")
    return with_targets(lesson, pseudo if taken else None)


def _best(teacher: FusionHead, student: FusionHead, clips: Clips, config: Config) -> FusionHead:
    """After ROUNDS of them. A student that is not better ends them: the same teacher would teach the same again."""
    best = teacher
    for number in range(ROUNDS):
        student = _fit(taught(best, clips, config), clips, config) if number else student
        if _waf(student, clips.validation) <= _waf(best, clips.validation):
            break
        best = student
    return best


def _longer(clips: Clips, config: Config, size: int) -> FusionHead:
    """The head of the labelled clips alone, trained for as many steps as one of `size` clips."""
    labelled = clips.pool.rows(clips.known_B)
    steps = [-(-count // config.fusion.batch_size) for count in (size, len(labelled))]
    passes = round(config.fusion.passes_per_epoch * steps[0] / steps[1])
    return _fit(labelled, clips, override(config, {"fusion.passes_per_epoch": passes}))


def _fit(batch: FeatureBatch, clips: Clips, config: Config) -> FusionHead:
    return in_memory.fit_head(batch, clips.validation, config, len(clips.labels))


def _accepted(world: World, clips: Clips, lesson: FeatureBatch) -> dict[str, float]:
    """What became of the clips whose labels were hidden, now that they may be looked at."""
    truth = dict(zip(world.splits["train"].clip_ids, world.splits["train"].label_B.tolist(), strict=True))
    known = {clip_id for clip_id, known in zip(clips.pool.clip_ids, clips.known_B.tolist(), strict=True) if known}
    given = dict(zip(lesson.clip_ids, lesson.label_B.tolist(), strict=True))
    right = [truth[clip_id] == k for clip_id, k in given.items() if clip_id not in known]
    hidden = len(clips.pool) - len(known)
    return {"accepted/share": len(right) / hidden, "accepted/right": float(np.mean(right)) if right else 0.0}


def _waf(head: FusionHead, batch: FeatureBatch) -> float:
    return metrics(shown_only(head, batch, MODALITIES), batch.label_B.numpy())["waf"]
