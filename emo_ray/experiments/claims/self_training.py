"""The trial of self-training: the rounds of jobs/self_train.py on a world whose labels are known and mostly hidden."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.model_selection import train_test_split

from emo_ray import cluster, durable, store
from emo_ray.config import Config, override
from emo_ray.data import manifest, pseudo
from emo_ray.data.prepared import LEDGER, MANIFEST, LabelOf, Prepared
from emo_ray.experiments.claims.trials import HEADS, JUDGED, Scores
from emo_ray.inference.encoders import encoders_of
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.evaluate import predict_subsets
from emo_ray.stages.self_train import self_train
from emo_ray.stages.train import train_model
from emo_ray.training.metrics import metrics
from emo_ray.training.scoring import EVERYTHING


def self_training_scores(config: Config, corpus: Corpus, labelled: int) -> Scores:
    """WAF on whatever each clip has, where so many training clips keep their labels ("test/student").

    teacher   the model of the labelled clips
    longer    the same for as many steps as the student takes, which could be all that helps it
    student   after one round
    kept      the best on validation after all rounds; the best so far teaches

    And "accepted/share" and "accepted/right": how many of the hidden clips the first round accepts, and how many of
    these labels are right, which a job could not know.
    """
    prepared = hide_labels(config, corpus.prepared, labelled)
    content = self_train(config, Corpus(prepared)).content
    root = cluster.store_root(config)
    teacher, first = content["rounds"][:2]
    longer, _ = train_model(with_steps_of_student(config, content), Corpus(prepared))
    checkpoints = {
        "teacher": root / teacher["checkpoint"],
        "longer": longer,
        "student": root / (first["checkpoint"] or teacher["checkpoint"]),  # no clip may have been accepted
        "kept": Path(content["checkpoint"]),
    }
    scores = {f"{split}/{name}": _waf(config, checkpoints[name], prepared, split) for name in HEADS for split in JUDGED}
    accepted = pseudo.read(root / first["pseudo_labels"], prepared.labels, config.train).label_of
    return scores | acceptance(accepted, corpus.prepared.labels_of("train"), labelled)


def hide_labels(config: Config, prepared: Prepared, labelled: int) -> Prepared:
    """The corpus with so many labelled training clips, drawn by the seed, evenly over classes; others are unlabelled.

    It is a folder of its own beside the same shards, so no clip is decoded or encoded again.
    """
    label_of = prepared.labels_of("train")
    clip_ids = sorted(label_of)
    classes = [label_of[clip_id] for clip_id in clip_ids]
    hidden, shown = train_test_split(clip_ids, test_size=labelled, stratify=classes, random_state=config.seed)
    hidden_ids = set(hidden)
    clips = tuple(
        replace(clip, label=None, split="unlabelled") if clip.clip_id in hidden_ids else clip for clip in prepared.clips
    )
    key = store.digest(prepared.path.name, sorted(shown))
    path = cluster.store_root(config) / "claims" / "corpora" / key

    def fill(folder: Path) -> None:
        manifest.write(folder / MANIFEST, clips)
        durable.link_or_copy(prepared.path / LEDGER, folder / LEDGER)

    store.artefact(path, {"kind": "corpus with hidden labels", "corpus": prepared.path.name}, fill)
    return replace(prepared, path=path, clips=clips)


def with_steps_of_student(config: Config, content: dict[str, Any]) -> Config:
    """The config whose head takes as many steps on the labelled clips as the first student took on all of its clips.

    `content` is that of self_train's result.
    """
    teacher_clips = sum(content["labelled"].values())
    student_clips = teacher_clips + sum(content["rounds"][1]["accepted"].values())
    teacher_steps, student_steps = (-(-clips // config.fusion.batch_size) for clips in (teacher_clips, student_clips))
    passes = round(config.fusion.passes_per_epoch * student_steps / teacher_steps)
    return override(config, {"fusion.passes_per_epoch": passes})


def acceptance(accepted: Mapping[str, int], label_of: LabelOf, labelled: int) -> Scores:
    """The share of the hidden clips that were accepted, and how many of these labels are right."""
    right = sum(label_of[clip_id] == k for clip_id, k in accepted.items())
    return {
        "accepted/share": len(accepted) / (len(label_of) - labelled),
        "accepted/right": right / len(accepted) if accepted else 0.0,
    }


def _waf(config: Config, path: Path, prepared: Prepared, split: str) -> float:
    label_of = prepared.labels_of(split)
    batch, probabilities = predict_subsets(config, path, encoders_of(config, path), prepared, label_of)
    any_B = batch.present_BM.any(dim=1).numpy()
    return metrics(probabilities[EVERYTHING][any_B], batch.label_B.numpy()[any_B])["waf"]
