"""EmoVCLIP: a frozen CLIP made into a video emotion model by vision-language prompts (docs/method.md).

In every block the attention of each frame runs over `[CLS, patches | prompts]`. Prompt tokens are dropped after each
block (deep prompting), so they need keys and values but no queries, and prompts that frames or clips share are
projected once. Beside prompts, or in their place, low-rank updates of the frozen weights and the last blocks themselves
may be trained. `reference` says the same plainly and slowly.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.config import Config
from emo_ray.config.model_settings import LoRA
from emo_ray.data.batch import Output, VideoBatch
from emo_ray.models.clip import Clip, load_clip, pixel_statistics, tensor_digest, tokenizer
from emo_ray.models.clip_library import open_clip
from emo_ray.models.clip_source import image_size
from emo_ray.models.lora import LowRank
from emo_ray.models.prompts import ClassContext, FramePrompts
from emo_ray.models.temporal_pooling import TemporalAttention
from emo_ray.models.tower import Block, OpenClipTower, Tower, cls_block, prompted_block
from emo_ray.models.tower_text import TextTower
from emo_ray.models.tower_timm import TimmTower, check_timm

_PART_OF_MODULE = {  # as `emovclip.lr_of` names parts
    "prompts": "prompts",
    "time_TD": "prompts",
    "lora": "lora",
    "clip": "blocks",
    "pooling": "pooling",
    "context": "contexts",
}


class EmoVCLIP(nn.Module):
    """Maps video frames to class logits and an embedding.

    `clip` is an open_clip model; docs/towers.md lists the towers that fit. It is frozen and shared, not copied; its
    digest is part of the state, so that a state cannot be loaded on another CLIP. `labels` (default:
    `config.data.labels`) name the K classes. Trained are the prompts, the summary attention, `cls_proj`, the time
    embedding, the temporal pooling, the contexts, the logit scale, low-rank updates (`emovclip.lora`) and the last
    blocks of `clip` (`emovclip.unfreeze_blocks`). Raises ValueError for towers it cannot prompt.
    """

    clip: Clip
    frozen_digest: torch.Tensor
    tokens_KL: torch.Tensor
    end_K: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    frozen_prefix = "clip."  # state-dict keys that checkpoints leave out, but for parameters that are trained

    def __init__(
        self,
        config: Config,
        clip: Clip,
        labels: Sequence[str] | None = None,
    ):
        super().__init__()
        labels = labels or config.data.labels
        if not labels:
            raise ValueError("found no class names, expected labels=[...] or data.labels")
        tower, text = tower_of(clip), TextTower(clip)
        self.tower, self.text = tower, text
        self.clip = clip.requires_grad_(False)
        self.register_buffer("frozen_digest", tensor_digest(clip))
        self.register_load_state_dict_pre_hook(_check_digest)
        settings = config.emovclip
        self.frames = config.media.frames
        self.prompts = nn.ModuleList(
            FramePrompts(settings, self.frames, tower.width, block.heads, tower.patch_area) for block in tower.blocks
        )
        self.time_TD: nn.Parameter | None = None
        if settings.time_embedding:
            self.time_TD = nn.Parameter(torch.empty(self.frames, tower.width).normal_(std=0.02))
        self.pooling = TemporalAttention(self.frames, tower.dim) if settings.pooling == "attention" else None
        self.context: ClassContext | None = None
        if settings.context_tokens:
            self.context = ClassContext(settings, len(labels), text.width)
        tokens_KL, end_K, self.start = text.tokens(labels, settings.context_tokens, tokenizer(config))
        self.register_buffer("tokens_KL", tokens_KL, persistent=False)
        self.register_buffer("end_K", end_K, persistent=False)
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone())
        for name, value in zip(("mean", "std"), pixel_statistics(clip), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.lora = nn.ModuleDict(
            {
                name: nn.ModuleList(_with_updates(config.emovclip.lora, blocks))
                for name, blocks in (("vision", tower.blocks), ("text", text.blocks))
                if config.emovclip.lora.rank and name in config.emovclip.lora.towers
            }
        )
        for block in _last(tower.blocks, settings.unfreeze_blocks, "emovclip.unfreeze_blocks"):
            block.module.requires_grad_(True)

    def part_of(self, name: str) -> str | None:
        """The part of `emovclip.lr_of` that a parameter belongs to, by its name; None for the logit scale."""
        return _PART_OF_MODULE.get(name.split(".")[0])

    def merge(self) -> None:
        """Add the low-rank updates to the CLIP's weights: outputs stay, and there is nothing left to train."""
        for block in (*self.tower.blocks, *self.text.blocks):
            block.merge()
        self.lora.clear()

    def train(self, mode: bool = True) -> "EmoVCLIP":
        """Set the mode as `nn.Module.train` does, but leave the frozen CLIP in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def forward(self, batch: VideoBatch | torch.Tensor) -> Output:
        """A batch, or its uint8 frames_BTCHW alone, to logits_BK and features_BD."""
        return self.classify(self.encode_video(batch if isinstance(batch, torch.Tensor) else batch.frames_BTCHW))

    def classify(self, features_BD: torch.Tensor) -> Output:
        """Video embeddings to logits, which are scaled cosines with the class embeddings."""
        classes_KD = self.encode_classes()
        with torch.autocast(features_BD.device.type, enabled=False):  # bf16 cosines at scale 100 would tie
            cosines_BK = F.normalize(features_BD.float(), dim=-1) @ F.normalize(classes_KD.float(), dim=-1).T
            logits_BK = self.logit_scale.exp() * cosines_BK
        return Output(logits_BK, features_BD)

    def encode_video(self, frames_BTCHW: torch.Tensor) -> torch.Tensor:
        """uint8 frames to features_BD, the image embeddings of the prompted frames pooled over time.

        Raises ValueError for shapes other than those the model was made for.
        """
        tower, (B, T, C, H, W) = self.tower, frames_BTCHW.shape
        expected = (self.frames, 3, *tower.image_size)
        if expected != (T, C, H, W):
            raise ValueError(
                f"found frames of shape {(T, C, H, W)}, expected {expected}: "
                "media.frames and media.image_size must be those the model was made with"
            )
        images = (frames_BTCHW.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std
        x = tower.embed(images).unflatten(0, (B, T))
        if self.time_TD is not None:
            x = x + self.time_TD.to(x.dtype)[None, :, None]
        x = tower.enter(x)
        *blocks, (last, last_prompts) = zip(tower.blocks, self.prompts, strict=True)
        for block, prompts in blocks:
            x = prompted_block(block, x, prompts(tower.summary(x)))
        prompts = last_prompts(tower.summary(x))
        if tower.reads_cls and last.absorbs_keys:
            x = cls_block(last, x, prompts)
        else:
            x = prompted_block(last, x, prompts, queries=1 if tower.reads_cls else None)
        embedding_BTD = tower.pool(x)
        return embedding_BTD.mean(dim=1) if self.pooling is None else self.pooling(embedding_BTD)

    def encode_classes(self) -> torch.Tensor:
        """The K class embeddings (K, D): contexts and class names go through the frozen text tower."""
        x_KLD = self.text.embed(self.tokens_KL)
        if self.context is not None:
            x_KLD = self.context(x_KLD, self.start)
        return self.text.encode(x_KLD, self.end_K)


class VideoEncoder(nn.Module):
    """A trained EmoVCLIP as a feature encoder: `(batch) -> features_BD`. It merges the model's low-rank updates."""

    def __init__(self, model: EmoVCLIP):
        super().__init__()
        model.merge()
        self.model, self.dim = model, model.tower.dim

    def forward(self, batch: VideoBatch) -> torch.Tensor:
        """The video embeddings; the text tower is not used. Raises ValueError where one is not finite."""
        features_BD = self.model.encode_video(batch.frames_BTCHW)
        finite_B = features_BD.isfinite().all(dim=1)
        if not finite_B.all():
            raise ValueError(
                f"clip {batch.clip_ids[int((~finite_B).nonzero()[0])]!r}: found a video feature that is not finite, "
                "expected numbers: the EmoVCLIP, or the CLIP of emovclip.weights, is damaged or overflows"
            )
        return features_BD


def build(config: Config, labels: Sequence[str]) -> EmoVCLIP:
    """A fresh EmoVCLIP on the CLIP that the config names; `config.seed` alone decides what is random."""
    image_size(config)  # raises ValueError for a size that the CLIP cannot take
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return EmoVCLIP(config, load_clip(config), labels)


def _check_digest(model: EmoVCLIP, state: Mapping[str, torch.Tensor], prefix: str, *_: object) -> None:
    """A hook that raises ValueError before a state is loaded that was trained on another CLIP."""
    digest, expected = state.get(prefix + "frozen_digest"), model.frozen_digest.tolist()
    if digest is not None and digest.tolist() != expected:
        raise ValueError(
            f"found weights trained on another CLIP (digest {bytes(digest.tolist()).hex()}), expected "
            f"{bytes(expected).hex()}: name the CLIP they were trained on with emovclip.clip and emovclip.weights"
        )


def _with_updates(config: LoRA, blocks: Sequence[Block]) -> list[LowRank]:
    """New low-rank updates, which are put into the last `config.blocks` blocks."""
    updates = []
    for block in _last(blocks, len(blocks) if config.blocks is None else config.blocks, "emovclip.lora.blocks"):
        block.low_rank = LowRank(config, {layer: block.weight(layer).shape for layer in block.layers})
        updates.append(block.low_rank)
    return updates


def _last(blocks: Sequence[Block], count: int, key: str) -> Sequence[Block]:
    """The last blocks of a tower. Raises ValueError where it has fewer."""
    if count > len(blocks):
        raise ValueError(f"{key}: found {count}, expected at most {len(blocks)}, the blocks of this tower")
    return blocks[len(blocks) - count :]


def tower_of(clip: Clip) -> Tower:
    """The vision tower of a CLIP. Raises ValueError for one that cannot be prompted."""
    visual = clip.visual
    if isinstance(visual, open_clip.timm_model.TimmModel):
        check_timm(visual)
        return TimmTower(visual)
    vit, block_type = open_clip.transformer.VisionTransformer, open_clip.transformer.ResidualAttentionBlock
    plain = isinstance(visual, vit) and visual.pool_type in ("tok", "avg") and visual.attn_pool is None
    if not plain or any(type(block) is not block_type for block in visual.transformer.resblocks):
        raise ValueError(
            f"found a vision tower {type(visual).__name__}, expected a ViT with plain attention, e.g. "
            "emovclip.clip=ViT-B-16"
        )
    return OpenClipTower(visual)
