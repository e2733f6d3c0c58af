"""EmoVCLIP: a frozen CLIP made into a video emotion model by vision-language prompts (docs/method.md).

In every block the attention of each frame runs over `[CLS, patches | prompts]`. Prompt tokens are dropped after each
block (deep prompting), so they need keys and values but no queries, and prompts that frames or clips share are
projected once. `reference` says the same plainly and slowly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from emo_ray.config import Config
from emo_ray.data.batch import Output, VideoBatch
from emo_ray.models.clip import Clip, load_clip, pixel_statistics, tensor_digest, tokenizer
from emo_ray.models.clip_source import image_size
from emo_ray.models.prompts import ClassContext, FramePrompts
from emo_ray.models.temporal_pooling import TemporalAttention

PLACEHOLDER = "X"  # one token; its embedding is replaced by a context vector


class EmoVCLIP(nn.Module):
    """Maps video frames to class logits and an embedding.

    `clip` is an open_clip model with an ordinary ViT (CLS pooling) and a causal text tower. It is frozen and shared,
    not copied; its digest is part of the state, so that a state cannot be loaded on another CLIP. `labels` (default:
    `config.data.labels`) name the K classes. Trained are the prompts, the summary attention, `cls_proj`, the time
    embedding, the temporal pooling, the contexts and the logit scale. Raises ValueError for towers it cannot prompt.
    """

    clip: Clip
    frozen_digest: torch.Tensor
    tokens_KL: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    frozen_prefix = "clip."  # state-dict keys that checkpoints leave out

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
        _check_towers(clip)
        self.clip = clip.requires_grad_(False)
        self.register_buffer("frozen_digest", tensor_digest(clip))
        self.register_load_state_dict_pre_hook(_check_digest)
        settings, visual = config.emovclip, clip.visual
        self.frames, width = config.media.frames, visual.conv1.out_channels
        heads = visual.transformer.resblocks[0].attn.num_heads
        patch_area = visual.patch_size[0] * visual.patch_size[1]
        self.prompts = nn.ModuleList(
            FramePrompts(settings, self.frames, width, heads, patch_area) for _ in visual.transformer.resblocks
        )
        self.time_TD: nn.Parameter | None = None
        if settings.time_embedding:
            self.time_TD = nn.Parameter(torch.empty(self.frames, width).normal_(std=0.02))
        self.pooling = TemporalAttention(self.frames, visual.output_dim) if settings.pooling == "attention" else None
        self.context: ClassContext | None = None
        if settings.context_tokens:
            text_width = _text_tower(clip).token_embedding.embedding_dim
            self.context = ClassContext(settings, len(labels), text_width)
        tokens_KL = _tokens(clip, labels, settings.context_tokens, tokenizer(config))
        self.register_buffer("tokens_KL", tokens_KL, persistent=False)
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone())
        for name, value in zip(("mean", "std"), pixel_statistics(clip), strict=True):
            self.register_buffer(name, value, persistent=False)

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
        visual = self.clip.visual
        B, T, C, H, W = frames_BTCHW.shape
        expected = (self.frames, 3, *visual.image_size)
        if expected != (T, C, H, W):
            raise ValueError(
                f"found frames of shape {(T, C, H, W)}, expected {expected}: "
                "media.frames and media.image_size must be those the model was made with"
            )
        images = (frames_BTCHW.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(B * T, 1, -1), x], dim=1)
        x = x + visual.positional_embedding.to(x.dtype)
        x = x.unflatten(0, (B, T))
        if self.time_TD is not None:
            x = x + self.time_TD.to(x.dtype)[None, :, None]
        x = visual.ln_pre(x)
        *blocks, (last, last_prompts) = zip(visual.transformer.resblocks, self.prompts, strict=True)
        for block, prompts in blocks:
            x = prompted_block(block, x, prompts(_cls(x)))
        embedding_BTD = visual.ln_post(cls_block(last, x, last_prompts(_cls(x)))) @ visual.proj
        return embedding_BTD.mean(dim=1) if self.pooling is None else self.pooling(embedding_BTD)

    def encode_classes(self) -> torch.Tensor:
        """The K class embeddings (K, D): contexts and class names go through the frozen text tower."""
        text, ids_KL = _text_tower(self.clip), self.tokens_KL
        x = text.token_embedding(ids_KL)
        if self.context is not None:
            x = self.context(x)
        length = ids_KL.shape[1]
        x = x + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        x = text.ln_final(x)[torch.arange(len(ids_KL), device=x.device), ids_KL.argmax(dim=-1)]
        projection = text.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class VideoEncoder(nn.Module):
    """A trained EmoVCLIP as a feature encoder: `(batch) -> features_BD`."""

    def __init__(self, model: EmoVCLIP):
        super().__init__()
        self.model, self.dim = model, model.clip.visual.output_dim

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


def prompted_block(
    block: ResidualAttentionBlock, x_BTND: torch.Tensor, prompts: list[torch.Tensor]
) -> torch.Tensor:  # fmt: skip
    """One block of CLIP over the rows of frames, whose attention also sees prompts that broadcast to (B, T, *, D)."""
    B, T, N, D = x_BTND.shape
    attn, weight, bias = block.attn, block.attn.in_proj_weight, block.attn.in_proj_bias
    query_bias, key_value_bias = (None, None) if bias is None else bias.split([D, 2 * D])
    tokens = [block.ln_1(x_BTND), *(block.ln_1(p) for p in prompts)]
    query = F.linear(tokens[0], weight[:D], query_bias)
    key_value = torch.cat([F.linear(t, weight[D:], key_value_bias).expand(B, T, -1, -1) for t in tokens], dim=2)
    heads = (attn.num_heads, D // attn.num_heads)
    query = query.reshape(B * T, N, *heads).transpose(1, 2)
    key, value = key_value.reshape(B * T, -1, 2, *heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(B, T, N, D)
    return _residual(block, x_BTND, mixed)


def cls_block(block: ResidualAttentionBlock, x_BTND: torch.Tensor, prompts: list[torch.Tensor]) -> torch.Tensor:
    """The CLS tokens (B, T, D) that `prompted_block` makes, without projecting any row to keys and values.

    There is one query a head, so q . (K x) is computed as (K^T q) . x, and the weighted mean of V x as V applied to the
    weighted mean of x. A key bias would add the same to every score and is left out.
    """
    D, heads = x_BTND.shape[-1], block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    query_bias, _, value_bias = (None, None, None) if bias is None else bias.split(D)
    tokens = torch.cat([block.ln_1(t).expand(*x_BTND.shape[:2], -1, -1) for t in (x_BTND, *prompts)], dim=2)
    query = F.linear(_cls(tokens), weight[:D], query_bias).unflatten(-1, (heads, -1))
    key_weight, value_weight = weight[D:].view(2, heads, -1, D)
    query = torch.einsum("bthd,hdD->bthD", query, key_weight)
    mixed = F.scaled_dot_product_attention(query, tokens, tokens, scale=(D // heads) ** -0.5)
    mixed = torch.einsum("bthD,hdD->bthd", mixed, value_weight).flatten(-2)
    return _residual(block, _cls(x_BTND), mixed if value_bias is None else mixed + value_bias)


def _residual(block: ResidualAttentionBlock, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """The rest of a block after the heads of its attention: output projection, MLP and both residual sums."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _cls(x_BTND: torch.Tensor) -> torch.Tensor:
    """A copy of the CLS tokens (B, T, D): on a strided view torch would run one matrix product for each clip."""
    return x_BTND[:, :, 0].contiguous()


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


def _text_tower(clip: Clip) -> Any:
    """The text tower: a module of its own, or the CLIP itself. open_clip has both forms, and types for neither."""
    return getattr(clip, "text", clip)


def _check_towers(clip: Clip) -> None:
    """Raises ValueError for towers that cannot be prompted."""
    visual, text = clip.visual, _text_tower(clip)
    plain = isinstance(visual, VisionTransformer) and visual.pool_type == "tok" and visual.attn_pool is None
    if not plain or any(type(b) is not ResidualAttentionBlock for b in visual.transformer.resblocks):
        raise ValueError(
            f"found a vision tower {type(visual).__name__}, expected open_clip's VisionTransformer with CLS pooling "
            "and plain attention, e.g. emovclip.clip=ViT-B-16"
        )
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    if pool != "argmax" or text.attn_mask is None or getattr(text, "cls_emb", None) is not None:
        raise ValueError(f"found a text tower with pooling {pool!r}, expected a causal one pooled at the end token")


def _tokens(clip: Clip, labels: Sequence[str], context_tokens: int, tokenize: Callable) -> torch.Tensor:
    """Token ids of `start, placeholders, class name, end` for K classes, cut after the last end token.

    The mask is causal and the tower is read at the end token, so later tokens never matter.
    """
    length = _text_tower(clip).context_length
    names = [f"{PLACEHOLDER} " * context_tokens + label.replace("_", " ") for label in labels]
    ids_KL = tokenize(names, context_length=2 * length)
    end_K = ids_KL.argmax(dim=-1)
    if int(end_K.max()) >= length:
        raise ValueError(
            f"found prompts of {int(end_K.max()) + 1} tokens, expected at most {length}: lower emovclip.context_tokens"
        )
    vocabulary = _text_tower(clip).token_embedding.num_embeddings
    if int(ids_KL.max()) >= vocabulary:
        raise ValueError(
            f"found token {int(ids_KL.max())} in a CLIP with {vocabulary} tokens, expected its own tokenizer: put the "
            "merges it was trained with beside its JSON, as NAME.bpe.gz"
        )
    return ids_KL[:, : int(end_K.max()) + 1]
