"""An EmoVCLIP and a fusion head as one model, which is trained end to end."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, JointBatch, Output
from emo_ray.models.checkpoint import load_emovclip
from emo_ray.models.fusion import FusionHead
from emo_ray.models.head_average import HeadAverage

if TYPE_CHECKING:
    from emo_ray.models.emovclip import EmoVCLIP

HEAD = "head"  # what `JointModel.part_of` calls the head
_VIDEO = MODALITIES.index("video")


class JointModel(nn.Module):
    """Maps frames, and features of sound and text, to class logits.

    EmoVCLIP's contexts are no part of the way from frames to logits, so they stay as they are.
    """

    frozen_prefix = "video.clip."

    def __init__(self, video: "EmoVCLIP", head: FusionHead | HeadAverage):
        super().__init__()
        self.video, self.head = video, head

    def forward(self, batch: FeatureBatch) -> Output:
        """The head's output; clips with frames have their features of video made anew."""
        return self.head(self.encoded(batch) if isinstance(batch, JointBatch) else batch)

    def encoded(self, batch: JointBatch) -> FeatureBatch:
        """The features of clips, those of video as this EmoVCLIP makes them of the frames."""
        places = batch.present_BM[:, _VIDEO].nonzero().flatten()
        features_BD = torch.zeros_like(batch.features["video"])
        if len(places):
            encoded_VD = self.video.encode_video(batch.frames_BTCHW[places]).float()
            features_BD = features_BD.index_copy(0, places, encoded_VD)
        return FeatureBatch(
            clip_ids=batch.clip_ids,
            present_BM=batch.present_BM,
            label_B=batch.label_B,
            soft=batch.soft,
            features={**batch.features, "video": features_BD},
        )

    def part_of(self, name: str) -> str | None:
        """The part that a parameter belongs to, as EmoVCLIP's own, or the head."""
        model, _, rest = name.partition(".")
        return HEAD if model == "head" else self.video.part_of(rest)


def joined(folder: Path, head: FusionHead | HeadAverage) -> JointModel:
    """The EmoVCLIP of a checkpoint folder and a copy of a trained head."""
    return JointModel(load_emovclip(folder), deepcopy(head))


def parted(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The `trained_state` of a JointModel as that of its EmoVCLIP and that of its head."""
    video, head = (
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in ("video.", "head.")
    )
    return video, head
