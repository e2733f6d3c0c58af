"""EmoVCLIP: a frozen CLIP made into a video emotion model by vision-language prompts (DESIGN section 5).

In every block the attention of each frame runs over `[CLS, patches | prompts]`. Prompt tokens are dropped afterwards
(deep prompting), so they need keys and values alone, and those of prompts that frames or clips share are computed once.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from emo_ray.config import Config
from emo_ray.data.batch import Output, VideoBatch
from emo_ray.models.clip import load_clip, pixel_statistics, tensor_digest, tokenizer
from emo_ray.models.clip_source import image_size
from emo_ray.models.prompts import ClassContext, FramePrompts
from emo_ray.models.temporal_pooling import TemporalAttention

PLACEHOLDER = "X"  # one token; its embedding is replaced by a context vector


class EmoVCLIP(nn.Module):
    """Maps video frames to class logits and an embedding.

    `clip` is an open_clip model with an ordinary ViT (CLS pooling) and a causal text tower; it is frozen and shared,
    not copied, and its digest is part of the state, which no other CLIP takes. `labels` (default:
    `config.data.labels`) name the K classes. Trained are the prompts, the summary attention, `cls_proj`, the time
    embedding, the temporal pooling, the contexts and the logit scale.
    Raises ValueError for towers it cannot prompt.
    """

    frozen_prefix = "clip."  # state-dict keys that checkpoints leave out

    def __init__(
        self,
        config: Config,
        clip: nn.Module,
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
        own, visual = config.emovclip, clip.visual
        self.frames, width = config.media.frames, visual.conv1.out_channels
        heads = visual.transformer.resblocks[0].attn.num_heads
        patch_area = visual.patch_size[0] * visual.patch_size[1]
        self.prompts = nn.ModuleList(
            FramePrompts(own, self.frames, width, heads, patch_area) for _ in visual.transformer.resblocks
        )
        self.time_TD = None
        if own.time_embedding:
            self.time_TD = nn.Parameter(torch.empty(self.frames, width).normal_(std=0.02))
        self.pooling = TemporalAttention(self.frames, visual.output_dim) if own.pooling == "attention" else None
        self.context = None
        if own.context_tokens:
            text_width = _text_tower(clip).token_embedding.embedding_dim
            self.context = ClassContext(own, len(labels), text_width)
        tokens_KL = _tokens(clip, labels, own.context_tokens, tokenizer(config))
        self.register_buffer("tokens_KL", tokens_KL, persistent=False)
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone())
        for name, value in zip(("mean", "std"), pixel_statistics(clip), strict=True):
            self.register_buffer(name, value, persistent=False)

    def train(self, mode: bool = True) -> "EmoVCLIP":
        """As nn.Module's, but the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def forward(self, batch: VideoBatch | torch.Tensor) -> Output:
        """A batch, or its uint8 frames_BTCHW alone, to logits_BK and features_BD."""
        return self.classify(self.encode_video(batch if isinstance(batch, torch.Tensor) else batch.frames_BTCHW))

    def classify(self, features_BD: torch.Tensor) -> Output:
        """Video embeddings to logits: scaled cosines with the class embeddings."""
        classes_KD = self.encode_classes()
        with torch.autocast(features_BD.device.type, enabled=False):  # bf16 cosines at scale 100 would tie
            cosines_BK = F.normalize(features_BD.float(), dim=-1) @ F.normalize(classes_KD.float(), dim=-1).T
            logits_BK = self.logit_scale.exp() * cosines_BK
        return Output(logits_BK, features_BD)

    def encode_video(self, frames_BTCHW: torch.Tensor) -> torch.Tensor:
        """uint8 frames to features_BD: CLIP's image embeddings of the prompted frames, pooled over time.

        Raises ValueError for shapes that the model was not made for.
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
        """The K class embeddings (K, D): contexts and class names through the frozen text tower."""
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
        """The video embedding, without the text tower."""
        return self.model.encode_video(batch.frames_BTCHW)


def prompted_block(
    block: ResidualAttentionBlock, x_BTND: torch.Tensor, prompts: list[torch.Tensor]
) -> torch.Tensor:  # fmt: skip
    """One block of CLIP over frame rows, whose attention also sees prompt tokens (each broadcasts to (B, T, *, D))."""
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
    """The CLS tokens (B, T, D) that `prompted_block` makes, without keys and values of any row.

    For the one query of a head, q . (K x) is (K^T q) . x, and the weighted mean of V x is V applied to that of x; a key
    bias adds the same to every score.
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
    """What follows the heads of a block's attention."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _cls(x_BTND: torch.Tensor) -> torch.Tensor:
    """The CLS tokens (B, T, D), copied: torch multiplies a strided view by one matrix for every clip."""
    return x_BTND[:, :, 0].contiguous()


def build(config: Config, labels: Sequence[str]) -> EmoVCLIP:
    """A fresh EmoVCLIP on the CLIP that the config names; what is random comes from `config.seed` alone."""
    image_size(config)  # refuses what the CLIP cannot take
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return EmoVCLIP(config, load_clip(config), labels)


def _check_digest(model: EmoVCLIP, state: Mapping[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Before a state is loaded: that it was trained on this very CLIP. Raises ValueError where it was not."""
    found, own = state.get(prefix + "frozen_digest"), model.frozen_digest.tolist()
    if found is not None and found.tolist() != own:
        raise ValueError(
            f"found weights trained on another CLIP (digest {bytes(found.tolist()).hex()}), expected "
            f"{bytes(own).hex()}: name the CLIP they were trained on with emovclip.clip and emovclip.weights"
        )


def _text_tower(clip: nn.Module) -> nn.Module:
    return getattr(clip, "text", clip)


def _check_towers(clip: nn.Module) -> None:
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


def _tokens(clip: nn.Module, labels: Sequence[str], context_tokens: int, tokenize: Callable) -> torch.Tensor:
    """Ids of `start, placeholders, class name, end` for K classes, cut behind the last end token.

    The mask is causal and the end token is where the tower is read, so what follows it never matters.
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
