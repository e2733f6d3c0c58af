"""The text tower of a CLIP taken apart, so that context vectors and low-rank updates can be put in (docs/towers.md).

It is read at the end token of a class name (the largest id, or one of its own), or at its last position, padding and
all. A causal tower needs no rows behind the end token; another attends to the padding too, and gets it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from emo_ray.models.clip_library import open_clip
from emo_ray.models.tower import OpenClipBlock, prompted_block

Tokenize = Callable[..., torch.Tensor]


class TextTower:
    """open_clip's own text tower, in a module of its own or in the CLIP itself.

    Raises ValueError for one that cannot be read at the place of its class names.
    """

    def __init__(self, clip: Any):
        self.text = text = getattr(clip, "text", clip)
        if not hasattr(text, "token_embedding"):
            raise ValueError(f"found a text tower {type(text).__name__}, expected open_clip's own")
        self.pool = getattr(text, "text_pool_type", None) or text.pool_type
        if self.pool not in ("argmax", "eos", "last") or getattr(text, "cls_emb", None) is not None:
            raise ValueError(f"found a text tower with pooling {self.pool!r}, expected argmax, eos or last")
        if any(type(block) is not open_clip.transformer.ResidualAttentionBlock for block in text.transformer.resblocks):
            raise ValueError("found blocks of other kinds in the text tower, expected plain attention")
        self.blocks = [OpenClipBlock(block) for block in text.transformer.resblocks]
        self.width, self.length = text.token_embedding.embedding_dim, text.context_length

    def tokens(
        self, labels: Sequence[str], context_tokens: int, tokenize: Tokenize
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Ids (K, L) of class names with places for contexts, the positions (K,) that are read, and the first place.

        Contexts stand behind the start token, where the tokenizer has one. Raises ValueError for names that are too
        long, or that the tokenizer or the tower does not know.
        """
        names = [label.replace("_", " ") for label in labels]
        ids_KL = tokenize(names, context_length=2 * self.length)
        special_ids, unknown_id, padding_id = _special_ids(tokenize)
        for name, ids_L in zip(names, ids_KL.tolist(), strict=True):
            if unknown_id in ids_L:
                raise ValueError(f"found a class {name!r} with words that the CLIP's tokenizer does not know")
        start = int(int(ids_KL[0, 0]) in special_ids)
        places = ids_KL.new_zeros(len(names), context_tokens)
        ids_KL = torch.cat([ids_KL[:, :start], places, ids_KL[:, start:]], dim=1)
        end_K = self._ends(ids_KL, padding_id)
        if int(end_K.max()) >= self.length:
            raise ValueError(
                f"found prompts of {int(end_K.max()) + 1} tokens, expected at most {self.length}: "
                "lower emovclip.context_tokens"
            )
        vocabulary = self.text.token_embedding.num_embeddings
        if int(ids_KL.max()) >= vocabulary:
            raise ValueError(
                f"found token {int(ids_KL.max())} in a CLIP with {vocabulary} tokens, expected its own tokenizer: put "
                "the merges it was trained with beside its JSON, as NAME.bpe.gz"
            )
        if self.pool == "last":
            end_K = torch.full_like(end_K, self.length - 1)
        length = int(end_K.max()) + 1 if self.text.attn_mask is not None else self.length
        return ids_KL[:, :length], end_K, start

    def embed(self, ids_KL: torch.Tensor) -> torch.Tensor:
        """Token embeddings, without positions."""
        return self.text.token_embedding(ids_KL)

    def encode(self, x_KLD: torch.Tensor, end_K: torch.Tensor) -> torch.Tensor:
        """Token embeddings to text embeddings (K, E), read at `end_K`."""
        text, length = self.text, x_KLD.shape[1]
        x = x_KLD + text.positional_embedding[:length]
        mask_LL = None if text.attn_mask is None else text.attn_mask[:length, :length]
        # torch's module lays rows out so that in bf16 CPUs copy its weights for every position: a tenth of a step.
        in_bf16_on_cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if in_bf16_on_cpu or any(block.low_rank is not None for block in self.blocks):
            for block in self.blocks:
                x = prompted_block(block, x[None], (), mask_NN=mask_LL)[0]
        else:
            x = text.transformer(x, attn_mask=mask_LL)
        x = text.ln_final(x)[torch.arange(len(x), device=x.device), end_K]
        projection = text.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _ends(self, ids_KL: torch.Tensor, padding_id: int) -> torch.Tensor:
        """The last position of each class name, its end token."""
        if self.pool == "argmax":
            return ids_KL.argmax(dim=-1)
        if self.pool == "eos":
            end_id = getattr(self.text, "text_eos_id", None) or self.text.eos_id
            return (ids_KL == end_id).int().argmax(dim=-1)
        is_padding_KL = ids_KL.flip(1).eq(padding_id).int().cumprod(dim=1)
        return ids_KL.shape[1] - is_padding_KL.sum(dim=1)  # of SigLIP, where padding is the end token


def _special_ids(tokenize: Tokenize) -> tuple[set[int], int | None, int]:
    """The ids that are no words, that of unknown words, and that of padding."""
    inner = getattr(tokenize, "tokenizer", None)
    if inner is None:  # CLIP's own, which knows every byte
        return set(tokenize.all_special_ids), None, 0  # type: ignore[attr-defined] # of open_clip's SimpleTokenizer
    unknown_id = inner.unk_token_id
    return set(inner.all_special_ids) - {unknown_id}, unknown_id, inner.pad_token_id or 0
