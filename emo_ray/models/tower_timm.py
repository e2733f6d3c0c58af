"""Vision towers of timm: ViTs with or without a CLS token, with attention pool, and Eva with rotated positions.

These are the towers of SigLIP and SigLIP 2, PE-Core, EVA-01 and EVA-02, and some of MobileCLIP's (docs/towers.md).
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, GluMlp, Mlp, SwiGLU, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as ViTBlock
from timm.models.vision_transformer import VisionTransformer

from emo_ray.models.tower import Block, Tower, cls_rows


class TimmBlock(Block):
    """A block of timm's ViT or Eva. `rotation`: gives sines and cosines of the patches, where positions are rotated.

    EVA-02's largest towers norm what leaves attention and MLP, not what enters them; their prompts are not normed.
    """

    def __init__(self, module: Any, rotation: Callable[[], torch.Tensor] | None = None):
        super().__init__(module, module.attn.num_heads)
        self.rotation = rotation
        if isinstance(module.mlp, SwiGLU):
            self.layers = (*self.layers, "gate")

    def weight(self, layer: str) -> torch.Tensor:
        """A layer's weight; those of q, k and v are parts of one, or three."""
        qkv = self.module.attn.qkv
        return qkv.weight.chunk(3)["qkv".index(layer)] if layer in "qkv" and qkv is not None else self._of(layer).weight

    def bias(self, layer: str) -> torch.Tensor | None:
        """A layer's bias, where it has one."""
        attn = self.module.attn
        if layer not in "qkv" or attn.qkv is None:
            return self._of(layer).bias
        if getattr(attn, "q_bias", None) is not None:
            return getattr(attn, f"{layer}_bias")
        return None if attn.qkv.bias is None else attn.qkv.bias.chunk(3)["qkv".index(layer)]

    def key_value_layer(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layers k and v, put together where they are apart."""
        qkv, biases = self.module.attn.qkv, [self.bias(layer) for layer in "kv"]
        weights = [self.weight(layer) for layer in "kv"]
        weight = torch.cat(weights) if qkv is None else qkv.weight[len(qkv.weight) // 3 :]
        if all(bias is None for bias in biases):
            return weight, None
        zeros = [weight.new_zeros(len(part)) for part in weights]
        return weight, torch.cat([zero if bias is None else bias for bias, zero in zip(biases, zeros, strict=True)])

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of attention; none in blocks that norm afterwards."""
        return x if isinstance(self.module, EvaBlockPostNorm) else self.module.norm1(x)

    def ready_query(self, query_FHND: torch.Tensor) -> torch.Tensor:
        """Queries, normed and rotated."""
        return self._rotated(self.module.attn.q_norm(query_FHND))

    def ready_key(self, key_FHND: torch.Tensor) -> torch.Tensor:
        """Keys, normed and rotated; those of prompts, which have no place in the image, are not rotated."""
        return self._rotated(self.module.attn.k_norm(key_FHND))

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """A norm of the heads where there is one, output projection, MLP, and both residual sums."""
        block, mixed = self.module, self.linear("out", self.module.attn.norm(mixed))
        if isinstance(block, EvaBlockPostNorm):
            x = x + block.norm1(mixed)
            return x + block.norm2(self._mlp(x))
        x = x + self._scaled(1, mixed)
        return x + self._scaled(2, self._mlp(block.norm2(x)))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        mlp = self.module.mlp
        if isinstance(mlp, SwiGLU):
            hidden = mlp.act(self.linear("gate", x)) * self.linear("fc1", x)
        elif isinstance(mlp, GluMlp):
            first, second = self.linear("fc1", x).chunk(2, dim=-1)
            hidden = first * mlp.act(second) if mlp.gate_last else mlp.act(first) * second
        else:
            hidden = mlp.act(self.linear("fc1", x))
        return self.linear("fc2", mlp.norm(hidden))

    def _scaled(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """A branch times its layer scale, where the block has one."""
        if isinstance(self.module, ViTBlock):
            return getattr(self.module, f"ls{number}")(x)
        gamma = getattr(self.module, f"gamma_{number}")
        return x if gamma is None else gamma * x

    def _rotated(self, x_FHND: torch.Tensor) -> torch.Tensor:
        """Rows with the patches among them rotated; prefix tokens come before them, and prompts after."""
        attn = self.module.attn
        first = getattr(attn, "num_prefix_tokens", 0)
        if self.rotation is None or x_FHND.shape[2] <= first:
            return x_FHND
        angles = self.rotation()
        before, patches, after = x_FHND.split([first, len(angles), x_FHND.shape[2] - first - len(angles)], dim=2)
        patches = apply_rot_embed_cat(patches, angles, half=attn.rotate_half).type_as(x_FHND)
        return torch.cat([before, patches, after], dim=2)

    def _of(self, layer: str) -> Any:
        attn, mlp = self.module.attn, self.module.mlp
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "proj"}
        if layer in names:
            return getattr(attn, names[layer])
        return getattr(mlp, {"fc1": "fc1_x", "gate": "fc1_g"}.get(layer, layer) if "gate" in self.layers else layer)


class TimmTower(Tower):
    """open_clip's `TimmModel` around a ViT or an Eva."""

    def __init__(self, visual: Any):
        trunk = visual.trunk
        self.visual, self.trunk, self.width = visual, trunk, trunk.embed_dim
        self.image_size, self.dim = tuple(visual.image_size), _output_dim(visual)
        self.patch_area = self.image_size[0] * self.image_size[1] // trunk.patch_embed.num_patches
        self.reads_cls = trunk.attn_pool is None and trunk.global_pool == "token"
        rope = getattr(trunk, "rope", None)
        self.blocks = [TimmBlock(block, None if rope is None else rope.get_embed) for block in trunk.blocks]

    def embed(self, images_FCHW: torch.Tensor) -> torch.Tensor:
        """CLS, where there is one, and patches with their positions."""
        x = self.trunk._pos_embed(self.trunk.patch_embed(images_FCHW))
        return x[0] if isinstance(x, tuple) else x

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """The norm in front of the first block, where there is one."""
        return self.trunk.norm_pre(x)

    def summary(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """The CLS tokens; the mean of the patches where there is none."""
        if self.trunk.cls_token is not None:
            return cls_rows(x_BTND)
        return x_BTND[:, :, self.trunk.num_prefix_tokens :].mean(dim=2)

    def pool(self, x_BTND: torch.Tensor) -> torch.Tensor:
        """The trunk's own pooling, and the projection behind it."""
        pooled = self.visual.head(self.trunk.forward_head(self.trunk.norm(x_BTND.flatten(0, 1))))
        return pooled.unflatten(0, x_BTND.shape[:2])


def check_timm(visual: Any) -> None:
    """Raises ValueError for a trunk whose blocks `TimmBlock` would not run as timm does."""
    trunk = visual.trunk
    if type(trunk) not in (VisionTransformer, Eva) or "pool" in visual.head._modules:
        raise ValueError(f"found a vision tower {type(trunk).__name__} of timm, expected a ViT or an Eva")
    for block in trunk.blocks:
        attn = block.attn
        parts = (
            type(block) in (ViTBlock, EvaBlock, EvaBlockPostNorm),
            type(attn) in (Attention, EvaAttention, AttentionRope),
            type(block.mlp) in (Mlp, SwiGLU, GluMlp),
        )
        if not all(parts) or attn.gate is not None or getattr(attn, "num_kv_groups", 1) > 1:
            raise ValueError(
                f"found a block of {type(block).__name__}, {type(attn).__name__} and {type(block.mlp).__name__} in a "
                "tower of timm, expected plain attention and an MLP"
            )
    if getattr(trunk, "rope_mixed", False):
        raise ValueError("found rotations that differ from block to block, expected the same in all")


def _output_dim(visual: Any) -> int:
    """The width of what leaves a `TimmModel`: of its last linear layer, or of its trunk's features."""
    linear = [module for module in (*visual.head.modules(), visual.trunk.head) if isinstance(module, torch.nn.Linear)]
    return linear[-1].out_features if linear else visual.trunk.num_features
