"""A checkpoint's head and encoders, from the rows of decoded clips to probabilities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.data.status import are_ok
from emo_ray.inference.encoders import EncoderSpec, TextTables, encoders_of, of_checkpoint
from emo_ray.inference.encoding import encode_rows
from emo_ray.models import checkpoint
from emo_ray.models.checkpoint_files import read_config
from emo_ray.models.head_average import Head
from emo_ray.models.temporal_pooling import recorded
from emo_ray.training.speaker_scaling import SpeakerScaling

TOGETHER = "probabilities"
ALONE = {name: f"p_{name[0].upper()}" for name in MODALITIES}  # the columns of what each modality gives alone
# The columns of what the others give when a modality is left out: p_AT without video, and so on.
WITHOUT = {name: "p_" + "".join(other[0].upper() for other in MODALITIES if other != name) for name in MODALITIES}


@dataclass(frozen=True)
class ClipSpeakers:
    """A model's scaling with statistics of the clips at hand, and the speaker of each of these clips."""

    scaling: SpeakerScaling
    speaker_of: Mapping[str, str | None]  # clip_id -> speaker
    digest: str  # of all that decides the scaling

    def applied(self, batch: FeatureBatch) -> FeatureBatch:
        """Clips with features as the model takes them."""
        return self.scaling.applied(replace(batch, speakers=tuple(map(self.speaker_of.get, batch.clip_ids))))


@dataclass(frozen=True)
class Models:
    """What predicts: a checkpoint's fusion head, and by modality the encoders of those that it was trained on."""

    path: Path
    labels: tuple[str, ...]
    head: Head
    encoders: dict[str, EncoderSpec]
    modules: Mapping[str, Callable[[], Any]]  # what an encoder builds; the first call loads it
    device: str
    texts: TextTables | None  # for the encoder of text
    speakers: ClipSpeakers | None = None  # where the model standardises features by speaker


def load_models(
    config: Config,
    path: Path,
    device: str = "cpu",
    texts: TextTables | None = None,
    speakers: ClipSpeakers | None = None,
) -> Models:
    """The model in a checkpoint folder, to predict with in this process; encoders are loaded when clips need them."""
    config = of_checkpoint(config, path)
    head = checkpoint.load_fusion(path).to(device)
    # Sound or text that no training clip had cannot be used, though there is an encoder.
    all_encoders = encoders_of(config, path, texts)
    encoders = {encoder.modality: encoder for encoder in all_encoders if encoder.modality in head.project}
    modules = {name: cache(partial(encoder.built, device)) for name, encoder in encoders.items()}
    return Models(path, read_config(path)[1], head, encoders, modules, device, texts, speakers)


def with_features(
    models: Models, table: pa.Table, stored: Mapping[str, pa.Table]
) -> tuple[FeatureBatch, pa.Table, list[list[float] | None]]:
    """Shard rows as a batch of features, stored ones or as the encoders give them, and the rows with their statuses.

    Where a modality comes from feature tables, its statuses are the tables'. Last the attention of each row over its
    frames, where this computes it: None without video, for stored features, and for a model without attention.
    """
    attention: list[list[float] | None] = [None] * len(table)
    columns = table.select(["clip_id"])
    for name, encoder in models.encoders.items():
        if not encoder.wanted(table):
            continue  # nobody has it: no need to load a model
        features = stored.get(name)
        if features is None:
            module = models.modules[name]()
            with recorded(module) as weights_BT:
                features = encode_rows(encoder, module, table, models.device)
            if weights_BT:
                rows = np.flatnonzero(are_ok(table["video_status"]).to_numpy())  # encoded in their order
                for row, weights_T in zip(rows, torch.cat(weights_BT).tolist(), strict=True):
                    attention[row] = weights_T
        assert features["clip_id"].equals(table["clip_id"]), f"the rows of the {name} features differ from the shard's"
        if encoder.sources:
            table = clip_tables.with_column(table, f"{name}_status", features["status"])
        columns = columns.append_column(name, features["feature"])
        columns = columns.append_column(f"has_{name}", features["present"])
    batch = from_features(columns)
    return batch if models.speakers is None else models.speakers.applied(batch), table, attention


@torch.inference_mode()
def shown_probabilities(models: Models, batch: FeatureBatch) -> dict[str, np.ndarray]:
    """Probabilities (B, K) by column: of a head that is shown all of each clip, one modality, or all but one.

    Raises ValueError where one is not finite.
    """
    batch = batch.to(models.device)
    alone_MM = torch.eye(len(MODALITIES), dtype=torch.bool, device=batch.present_BM.device)
    batches = {TOGETHER: batch}
    for columns, shown_MM in ((ALONE, alone_MM), (WITHOUT, ~alone_MM)):
        batches |= {column: batch.showing(shown_M) for column, shown_M in zip(columns.values(), shown_MM, strict=True)}
    return {column: models.head(b).probabilities_BK(b.clip_ids).cpu().numpy() for column, b in batches.items()}
