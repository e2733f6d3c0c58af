"""The vision tower of a CLIP taken apart, so that prompts and low-rank updates can be put in (docs/towers.md).

A `Tower` embeds images, hands out its transformer `Block`s, and pools what leaves the last one. A `Block` names its
linear layers, with which `prompted_block` runs attention over rows that see additional keys and values. Both refer to
the modules of a library's model and hold no weights of their own, so they are no `nn.Module`s.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from emo_ray.models.clip_library import open_clip
from emo_ray.models.lora import LowRank

_QUICK = 1.702  # QuickGELU(x) = x * sigmoid(1.702 x)


class Block(ABC):
    """One pre-norm transformer block: attention, then an MLP, each added to its input.

    `layers` names its linear layers: q, k, v, out (after attention), fc1, fc2 (of the MLP), and those of its family.
    """

    layers: tuple[str, ...] = ("q", "k", "v", "out", "fc1", "fc2")
    absorbs_keys = False  # whether q . (K x) may be computed as (K^T q) . x: neither norm nor rotation in between

    def __init__(self, module: Any, heads: int):
        self.module, self.heads = module, heads
        self.low_rank: LowRank | None = None  # updates that are added to the layers

    @abstractmethod
    def weight(self, layer: str) -> torch.Tensor:
        """A layer's weight (outputs, inputs): a parameter, or a view of a part of one."""

    @abstractmethod
    def bias(self, layer: str) -> torch.Tensor | None:
        """A layer's bias, where it has one."""

    @abstractmethod
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of attention, for rows of frames and for prompts."""

    @abstractmethod
    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """The rest of the block after the heads of attention: output projection, MLP and both residual sums."""

    def begin(self) -> None:
        """Draw the dropout of a pass through the block."""
        if self.low_rank is not None:
            self.low_rank.draw()

    def linear(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        """A linear layer with its low-rank update, if any."""
        result = F.linear(x, self.weight(layer), self.bias(layer))
        return result if self.low_rank is None else self.low_rank.added(layer, x, result)

    def query(self, x: torch.Tensor) -> torch.Tensor:
        """Queries (..., heads * d)."""
        return self.linear("q", x)

    def key_value(self, x: torch.Tensor) -> torch.Tensor:
        """Keys, then values (..., 2 * heads * d), in one product."""
        result = F.linear(x, *self.key_value_layer())
        return result if self.low_rank is None else self.low_rank.added_to_key_value(x, result)

    @abstractmethod
    def key_value_layer(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of the layers k and v as one."""

    def ready_query(self, query_FHND: torch.Tensor) -> torch.Tensor:
        """Heads' queries after a norm of their own and rotation by position, where the family has them."""
        return query_FHND

    def ready_key(self, key_FHND: torch.Tensor) -> torch.Tensor:
        """Heads' keys after a norm of their own and rotation by position; the keys of prompts come last."""
        return key_FHND

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """The parameters of the library's block."""
        return self.module.parameters()

    def merge(self) -> None:
        """Add the low-rank update to the weights themselves, for prediction."""
        if self.low_rank is not None:
            with torch.no_grad():
                for layer in self.low_rank.layers:
                    self.weight(layer).add_(self.low_rank.update(layer))
            self.low_rank = None


class Tower(ABC):
    """A vision tower: `pool(blocks(enter(embed(images))))` gives the library's own image embeddings."""

    blocks: Sequence[Block]
    width: int  # D
    patch_area: int  # pixels of a patch
    image_size: tuple[int, int]
    dim: int  # of an image's embedding
    reads_cls: bool  # whether `pool` needs nothing but the CLS rows

    @abstractmethod
    def embed(self, images_FCHW: torch.Tensor) -> torch.Tensor:
        """Normalised images to rows (F, N, D) with their positions."""

    @abstractmethod
    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of the first block, where there is one."""

    @abstractmethod
    def summary(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """What stands for each frame (B, T, D), for prompts to be made from."""

    @abstractmethod
    def pool(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """The last block's rows, of the CLS tokens alone where `reads_cls`, to image embeddings (B, T, dim)."""


class OpenClipBlock(Block):
    """A `ResidualAttentionBlock` of open_clip, of a vision or a text tower."""

    absorbs_keys = True

    def __init__(self, module: Any):
        super().__init__(module, module.attn.num_heads)
        width = module.attn.embed_dim
        self._rows = {name: slice(i * width, (i + 1) * width) for i, name in enumerate("qkv")}
        self._key_value_rows = slice(width, 3 * width)

    def weight(self, layer: str) -> torch.Tensor:
        """A layer's weight; those of q, k and v are parts of one."""
        return self.module.attn.in_proj_weight[self._rows[layer]] if layer in self._rows else self._of(layer).weight

    def bias(self, layer: str) -> torch.Tensor | None:
        """A layer's bias; those of q, k and v are parts of one."""
        return self.module.attn.in_proj_bias[self._rows[layer]] if layer in self._rows else self._of(layer).bias

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of attention."""
        return normed(self.module.ln_1, x)

    def key_value_layer(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layers k and v, which lie together."""
        attn, rows = self.module.attn, self._key_value_rows
        return attn.in_proj_weight[rows], attn.in_proj_bias[rows]

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Output projection, MLP, and both residual sums with their layer scales."""
        block = self.module
        x = x + block.ls_1(self.linear("out", mixed))
        hidden = activated(block.mlp.gelu, self.linear("fc1", normed(block.ln_2, x)))
        return x + block.ls_2(self.linear("fc2", hidden))

    def _of(self, layer: str) -> Any:
        return {"out": self.module.attn.out_proj, "fc1": self.module.mlp.c_fc, "fc2": self.module.mlp.c_proj}[layer]


class OpenClipTower(Tower):
    """open_clip's own `VisionTransformer`, pooled at CLS or by the mean of its patches."""

    def __init__(self, visual: Any):
        self.visual, self.width, self.dim = visual, visual.conv1.out_channels, visual.output_dim
        self.patch_area = visual.patch_size[0] * visual.patch_size[1]
        self.image_size, self.reads_cls = visual.image_size, visual.pool_type == "tok"
        self.blocks = [OpenClipBlock(block) for block in visual.transformer.resblocks]

    def embed(self, images_FCHW: torch.Tensor) -> torch.Tensor:
        """CLS and patches with their positions."""
        visual = self.visual
        x = visual.conv1(images_FCHW).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        return x + visual.positional_embedding.to(x.dtype)

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of the first block, where there is one."""
        return normed(self.visual.ln_pre, x)

    def summary(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """The CLS tokens; the mean of the patches where that is what is pooled."""
        return cls_rows(x_BTND) if self.reads_cls else x_BTND[:, :, 1:].mean(dim=2)

    def pool(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """What is pooled, normed (before or afterwards) and projected."""
        visual = self.visual
        x = x_BTND if visual.final_ln_after_pool or self.reads_cls else visual.ln_post(x_BTND)
        x = self.summary(x)
        return (visual.ln_post(x) if visual.final_ln_after_pool or self.reads_cls else x) @ visual.proj


def prompted_block(
    block: Block,
    x_BTND: torch.Tensor,
    prompts: Sequence[torch.Tensor],
    queries: int | None = None,
    mask_NN: torch.Tensor | None = None,
) -> torch.Tensor:
    """A block over the rows of frames, whose attention also sees prompts that broadcast to (B, T, *, D).

    Prompts need keys and values but no queries; those that frames or clips share are projected once. `queries`: how
    many rows, from the first, are made; by default all.
    """
    (B, T), x_BTQD = x_BTND.shape[:2], x_BTND[:, :, :queries]
    block.begin()
    tokens = [block.norm(x_BTND), *(block.norm(p) for p in prompts)]
    query = block.query(tokens[0][:, :, :queries])
    # Contiguous, because GPUs join other tensors four times as slowly.
    key_value = torch.cat([block.key_value(t).expand(B, T, -1, -1).contiguous() for t in tokens], dim=2)
    query = query.reshape(B * T, x_BTQD.shape[2], block.heads, -1).transpose(1, 2)
    # Their gradients come back in this order, and are put together without another copy.
    key, value = (t.transpose(1, 2) for t in key_value.reshape(B * T, -1, 2, block.heads, query.shape[-1]).unbind(2))
    mixed = attention(block.ready_query(query), block.ready_key(key), value, mask_NN)
    return block.finish(x_BTQD, mixed.transpose(1, 2).reshape(*x_BTQD.shape[:3], -1))


def cls_block(block: Block, x_BTND: torch.Tensor, prompts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The CLS tokens (B, T, 1, D) that `prompted_block` makes, without projecting any row to keys and values.

    For blocks that absorb keys. There is one query a head, so q . (K x) is computed as (K^T q) . x, and the weighted
    mean of V x as V applied to the weighted mean of x. A key bias would add the same to every score and is left out.
    """
    block.begin()
    tokens = torch.cat([block.norm(t).expand(*x_BTND.shape[:2], -1, -1) for t in (x_BTND, *prompts)], dim=2)
    query = block.query(cls_rows(tokens)).unflatten(-1, (block.heads, -1))
    size = query.shape[-1]
    key_weight, value_weight = (block.weight(layer).unflatten(0, (block.heads, -1)) for layer in "kv")
    query_of_row = torch.einsum("bthd,hdD->bthD", query, key_weight)
    if block.low_rank is not None:
        query_of_row = block.low_rank.added_to_absorbed_key(query, query_of_row)
    mixed_rows = F.scaled_dot_product_attention(query_of_row, tokens, tokens, scale=size**-0.5)
    mixed = torch.einsum("bthD,hdD->bthd", mixed_rows, value_weight)
    if block.low_rank is not None:
        mixed = block.low_rank.added_to_absorbed_value(mixed_rows, mixed)
    value_bias, mixed = block.bias("v"), mixed.flatten(-2)
    return block.finish(cls_rows(x_BTND), mixed if value_bias is None else mixed + value_bias)[:, :, None]


def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer norm of rows in their own number format.

    On GPUs autocast would compute it in float32: two casts, and a copy of all rows for the gradient. Means and
    deviations are computed in float32 either way.
    """
    if not (x.is_cuda and x.dtype == torch.bfloat16 and isinstance(norm, torch.nn.LayerNorm)):
        return norm(x)
    with torch.autocast("cuda", enabled=False):
        weight, bias = (None if vector is None else vector.to(x.dtype) for vector in (norm.weight, norm.bias))
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def activated(activation: Any, x: torch.Tensor) -> torch.Tensor:
    """The activation of an MLP. QuickGELU is written as SiLU, which keeps one tensor for the gradient and not three."""
    if isinstance(activation, open_clip.transformer.QuickGELU):
        return F.silu(_QUICK * x) / _QUICK
    return activation(x)


def attention(
    query_FHQD: torch.Tensor, key_FHND: torch.Tensor, value_FHND: torch.Tensor, mask_QN: torch.Tensor | None
) -> torch.Tensor:
    """Scaled dot-product attention. In bf16 on CPUs torch's fused one is slow, so there it is spelt out."""
    if query_FHQD.device.type != "cpu" or query_FHQD.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query_FHQD, key_FHND, value_FHND, attn_mask=mask_QN)
    scores_FHQN = query_FHQD * query_FHQD.shape[-1] ** -0.5 @ key_FHND.transpose(-2, -1)
    if mask_QN is not None:
        scores_FHQN = scores_FHQN + mask_QN.to(scores_FHQN.dtype)
    return scores_FHQN.softmax(dim=-1) @ value_FHND


def cls_rows(x_BTND: torch.Tensor) -> torch.Tensor:
    """A copy of the first rows (B, T, D): on a strided view torch would run one matrix product for each clip."""
    return x_BTND[:, :, 0].contiguous()
