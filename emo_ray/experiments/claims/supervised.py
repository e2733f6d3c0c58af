"""Trials with all labels: the train stage on a world, and what its checkpoints are worth on validation and test."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch

from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import from_features
from emo_ray.data.prepared import LabelOf, Prepared
from emo_ray.data.status import is_ok
from emo_ray.experiments.claims.trials import JUDGED, Scores
from emo_ray.inference.encoders import encoders_of, with_views
from emo_ray.models import checkpoint
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.encoding.labelled import labelled_rows
from emo_ray.stages.evaluate import predict_subsets
from emo_ray.stages.fitting.phases import feature_rows, train_emovclip
from emo_ray.stages.fitting.plan import TrainingPlan, resolve_training
from emo_ray.stages.train import train_model
from emo_ray.training.metrics import metrics


def emovclip_scores(config: Config, corpus: Corpus) -> Scores:
    """EmoVCLIP by itself: its WAF on the clips with video."""
    plan = resolve_training(config, corpus)
    train_emovclip(config, plan, lambda phase, metrics: None)
    assert plan.video_path is not None, "a world has clips with video"
    best = store.read_meta(plan.video_path)["best"]["emovclip"]
    return {"validation/V": best["waf"], "test/V": _test_waf(config, plan, plan.video_path)}


def model_scores(config: Config, corpus: Corpus) -> Scores:
    """A whole model: its WAF for every subset of its modalities, on the clips that have all three."""
    path, _ = train_model(config, corpus)
    prepared = corpus.prepared
    encoders = with_views(encoders_of(config, path), config.evaluate.views, config.seed)
    scores: Scores = {}
    for split in JUDGED:
        label_of = complete_clips(prepared, prepared.labels_of(split))
        batch, probabilities = predict_subsets(config, path, encoders, prepared, label_of)
        label_B = batch.label_B.numpy()
        for key, names in SUBSETS.items():
            if set(names) <= set(config.modalities):
                scores[f"{split}/{key}"] = metrics(probabilities[key], label_B)["waf"]
    return scores


def complete_clips(prepared: Prepared, label_of: LabelOf) -> LabelOf:
    """The clips that have video, sound and text: all subsets are measured on the same ones."""
    statuses = prepared.ledger.select(["clip_id", *(f"{name}_status" for name in MODALITIES)]).to_pylist()
    complete = {row.pop("clip_id") for row in statuses if all(is_ok(row[f"{name}_status"]) for name in MODALITIES)}
    return {clip_id: k for clip_id, k in label_of.items() if clip_id in complete}


@torch.inference_mode()
def _test_waf(config: Config, plan: TrainingPlan, path: Path) -> float:
    label_of = plan.prepared.labels_of("test")
    table: pa.Table = feature_rows(config, replace(plan, encoders=()), label_of)
    batch = from_features(labelled_rows(table, label_of))
    logits_BK = checkpoint.load_emovclip(path).classify(batch.features["video"]).logits_BK
    return metrics(logits_BK.numpy(), batch.label_B.numpy())["waf"]
