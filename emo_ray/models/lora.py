"""Low-rank updates of frozen linear layers (LoRA, Hu et al. 2022).

A layer with the weight W gives W x + (alpha / rank) up (down x). Frozen weights get no gradient, so an update costs no
more than its two thin products. Dropout leaves out inputs of the update, drawn once for all rows of a step: in the form
that draws for each row it would cost more than the update, and keys could not be absorbed (`tower.cls_block`).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.config.model_settings import LoRA

TARGETS = {"gate": "fc1"}  # layers that go with another of `emovclip.lora.targets`


class LowRank(nn.Module):
    """The updates of the layers of one block; `sizes`: (outputs, inputs) by layer. They start at zero."""

    def __init__(self, config: LoRA, sizes: Mapping[str, Sequence[int]]):
        super().__init__()
        self.scale, self.dropout = config.alpha / config.rank, config.dropout
        self._kept: dict[str, torch.Tensor] = {}  # by layer: 0 for inputs that dropout leaves out
        self.layers = tuple(name for name in sizes if TARGETS.get(name, name) in config.targets)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name in self.layers:
            outputs, inputs = sizes[name]
            self.down[name] = nn.Parameter(torch.empty(config.rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
            self.up[name] = nn.Parameter(torch.zeros(outputs, config.rank))

    def draw(self) -> None:
        """Draw which inputs dropout leaves out, for all that is computed until the next call."""
        if self.training and self.dropout:
            self._kept = {name: F.dropout(torch.ones_like(self.down[name][0]), self.dropout) for name in self.layers}
        else:
            self._kept = {}

    def update(self, layer: str) -> torch.Tensor:
        """What is added to the layer's weight (outputs, inputs), without dropout."""
        return self.scale * self.up[layer] @ self.down[layer]

    def added(self, layer: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """The layer's result with the update of its input x added."""
        if layer not in self.layers:
            return result
        return _plus_product(result, F.linear(x, self._down(layer)), self._up(layer))

    def added_to_key_value(self, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Keys and values (..., 2 D) of x in one tensor, with the updates of both added."""
        layers = [layer for layer in "kv" if layer in self.layers]
        if not layers:
            return result
        low = F.linear(x, torch.cat([self._down(layer) for layer in layers]))
        width = result.shape[-1] // 2
        empty = low.new_zeros(width, 0, dtype=torch.float32)
        up = torch.block_diag(*(self._up(layer) if layer in layers else empty for layer in "kv"))
        return _plus_product(result, low, up)

    def added_to_absorbed_key(self, query_BTHd: torch.Tensor, result_BTHD: torch.Tensor) -> torch.Tensor:
        """K^T q of every head, with the update of K added."""
        if "k" not in self.layers:
            return result_BTHD
        up_HdR = self._up("k").unflatten(0, (query_BTHd.shape[-2], -1))
        return _plus_product(result_BTHD, torch.einsum("bthd,hdr->bthr", query_BTHd, up_HdR), self._down("k").T)

    def added_to_absorbed_value(self, rows_BTHD: torch.Tensor, result_BTHd: torch.Tensor) -> torch.Tensor:
        """V applied to a row for every head, with the update of V added."""
        if "v" not in self.layers:
            return result_BTHd
        up_HdR = self._up("v").unflatten(0, (rows_BTHD.shape[-2], -1))
        return result_BTHd + torch.einsum("bthr,hdr->bthd", F.linear(rows_BTHD, self._down("v")), up_HdR)

    def _up(self, layer: str) -> torch.Tensor:
        return self.scale * self.up[layer]

    def _down(self, layer: str) -> torch.Tensor:
        down = self.down[layer]
        return down * self._kept[layer] if self._kept else down


def _plus_product(result: torch.Tensor, low: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """result + low up^T in one pass over memory."""
    product = torch.addmm(result.flatten(0, -2), low.flatten(0, -2), up.T)
    return product.view(result.shape)
