"""A trained model as ONNX, with any number of clips: the head over features, and EmoVCLIP's video side over frames."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import Context, FeatureBatch, unlabelled
from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.head_average import Head, members

HEAD, VIDEO = "head.onnx", "video.onnx"
_EXAMPLES = 2  # clips; a batch of one would be taken for a constant


class HeadOfFeatures(nn.Module):
    """The head as a function of tensors: features of each modality (B, D), then `present` (B, M) in their order.

    It gives calibrated probabilities (B, K). Clips have no neighbours.
    """

    def __init__(self, head: Head, temperature: float):
        super().__init__()
        self.head, self.temperature = head, temperature
        self.names = [name for name in MODALITIES if name in head.project]

    def forward(self, features: Sequence[torch.Tensor], present_BM: torch.Tensor) -> torch.Tensor:
        """Features of the modalities in `names`, and which clips have which of MODALITIES."""
        batch = FeatureBatch(
            clip_ids=(),
            present_BM=present_BM,
            label_B=unlabelled(1),
            features=dict(zip(self.names, features, strict=True)),
        )
        if self.head.offsets:
            place_BN = torch.full((present_BM.shape[0], len(self.head.offsets)), -1)
            context = Context(
                clips=batch, offsets=self.head.offsets, place_BN=place_BN, speaker_BN=torch.zeros_like(place_BN)
            )
            batch = FeatureBatch(
                clip_ids=(), present_BM=present_BM, label_B=batch.label_B, features=batch.features, context=context
            )
        return (self.head(batch).logits_BK.float() / self.temperature).softmax(dim=-1)


class VideoOfFrames(nn.Module):
    """EmoVCLIP's video side as a function of uint8 frames (B, T, 3, H, W) to features (B, D)."""

    def __init__(self, model: EmoVCLIP):
        super().__init__()
        self.model = model

    def forward(self, frames_BTCHW: torch.Tensor) -> torch.Tensor:
        """The features that the head takes as `video`."""
        return self.model.encode_video(frames_BTCHW)


def write_head(head: Head, temperature: float, path: Path) -> None:
    """Write the head: from `video`, `audio`, `text` (those that it knows) and `present` to `probabilities`."""
    module = HeadOfFeatures(head, temperature).eval()
    first = members(head)[0]
    widths = {name: first.get_buffer(f"scaling_{name}").shape[1] for name in module.names}
    features = [torch.zeros(_EXAMPLES, width) for width in widths.values()]
    present_BM = torch.ones(_EXAMPLES, len(MODALITIES), dtype=torch.bool)
    batch = torch.export.Dim("clips")
    shapes = ([{0: batch} for _ in features], {0: batch})
    _write(module, (features, present_BM), shapes, [*module.names, "present"], "probabilities", path)


def write_video(model: EmoVCLIP, path: Path) -> None:
    """Write EmoVCLIP's video side: input `frames`, output `features`."""
    height, width = model.clip.visual.image_size
    frames_BTCHW = torch.zeros(_EXAMPLES, model.frames, 3, height, width, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("clips")},)
    _write(VideoOfFrames(model).eval(), (frames_BTCHW,), shapes, ["frames"], "features", path)


def _write(module: nn.Module, inputs: tuple, shapes: tuple, names: list[str], output: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of every node that it leaves as it is
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of names that axes share, and of torch's own use of its functions
        torch.onnx.export(
            module,
            inputs,
            path,
            input_names=names,
            output_names=[output],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
