"""What T fusion heads of one fold make of validation clips that are shown subsets of the modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.fusion import FusionHead
from emo_ray.training.stacked_clips import standardised
from emo_ray.training.stacked_forward import classify, fuse_subsets, project, read_neighbours


@dataclass(frozen=True)
class ValidationPart:
    """Some validation clips of a fold, and what its heads see of them and of their neighbours."""

    clips: FeatureBatch
    standardised: Mapping[str, torch.Tensor]
    present_BM: torch.Tensor
    near: "_Near | None"

    @classmethod
    def of(cls, head: FusionHead, clips: FeatureBatch, device: torch.device) -> "ValidationPart":
        """The part of a head's fold."""
        features = {name: rows.to(device) for name, rows in standardised(head, clips).items()}
        return cls(clips, features, clips.present_BM.to(device), _Near.of(head, clips, device))

    def logits(
        self, tensors: Mapping[str, torch.Tensor], subsets: Sequence[tuple[str, ...]]
    ) -> list[torch.Tensor]:  # fmt: skip
        """The logits (T, B, K) of heads that are shown each subset of the modalities, on the CPU."""
        fused_clips = _fused_subsets(tensors, self.standardised, self.present_BM, subsets)
        if self.near is not None:
            fused_clips = self.near.read(tensors, fused_clips, subsets)
        return [classify(tensors, fused_TBH).cpu() for fused_TBH in fused_clips]


@dataclass(frozen=True)
class _Near:
    """The neighbours of B clips: see `Context`."""

    standardised: Mapping[str, torch.Tensor]  # modality -> (B N, D)
    present_BNM: torch.Tensor
    is_there_BN: torch.Tensor
    speaker_BN: torch.Tensor

    @classmethod
    def of(cls, head: FusionHead, clips: FeatureBatch, device: torch.device) -> "_Near | None":
        """The neighbours that a head sees; None for a head without context."""
        if not head.offsets:
            return None
        context = head.window(clips)
        place_BN = context.place_BN.clamp(min=0)
        features = standardised(head, context.clips)
        return cls(
            {name: rows_CD[place_BN.flatten()].to(device) for name, rows_CD in features.items()},
            context.clips.present_BM[place_BN].to(device),
            (context.place_BN >= 0).to(device),
            context.speaker_BN.to(device),
        )

    def read(
        self, tensors: Mapping[str, torch.Tensor], fused_clips: Sequence[torch.Tensor], subsets: Sequence[tuple]
    ) -> list[torch.Tensor]:
        """The fused features of clips, for each subset, with what those of the neighbours add."""
        fused_near = _fused_subsets(tensors, self.standardised, self.present_BNM.flatten(0, 1), subsets)
        read = []
        for names, fused_TBH, near_TXH in zip(subsets, fused_clips, fused_near, strict=True):
            shown_M = torch.tensor([name in names for name in MODALITIES], device=self.present_BNM.device)
            usable_BN = self.is_there_BN & (self.present_BNM & shown_M).any(dim=-1)
            near_TBNH = near_TXH.unflatten(1, usable_BN.shape)
            read.append(read_neighbours(tensors, fused_TBH, near_TBNH, self.speaker_BN, usable_BN))
        return read


def _fused_subsets(
    tensors: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor], present_BM: torch.Tensor,
    subsets: Sequence[tuple[str, ...]],
) -> list[torch.Tensor]:  # fmt: skip
    projected = [project(tensors, name, features[name]) if name in features else None for name in MODALITIES]
    return fuse_subsets(tensors, projected, present_BM, subsets)
