"""Text encoders, all frozen: `(batch) -> features_BD`, with D as `dim`; `identity.text_digest` names their output.

A row of NaN means that the encoder has no feature for that clip, because its text has no token. `ngrams` needs no
download. Any other name is a transformers encoder or decoder-only language model, pooled as the mean over tokens of the
mean of the last four hidden layers.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from emo_ray.config.model_settings import Text
from emo_ray.data.batch import TextBatch
from emo_ray.models import pretrained
from emo_ray.models.hidden_states import masked_mean, mean_of_layers
from emo_ray.models.pretrained_source import check_code
from emo_ray.models.weights import check_packages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A token is a run of letters (a single one too, as in "I"; text without spaces stays whole) or of signs ("?!").
TOKEN = r"(?u)\w+|[^\w\s]+"
_PLACEHOLDER = re.compile(r"{(transcript|reading)}")


def filled(config: Text, transcript: str, reading: str | None = None) -> str:
    """The text to encode: the template filled in, which is `text.template_with_reading` for a clip with a reading."""
    values = {"transcript": transcript, "reading": reading or ""}
    template = config.template_with_reading if reading and reading.strip() else config.template
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _pairs(batch: TextBatch) -> list[tuple[str, str | None]]:
    return list(zip(batch.texts, batch.readings, strict=True))


class NGrams(nn.Module):
    """Hashed word uni- and bigrams of unit length: the offline substitute for a language model."""

    def __init__(self, config: Text):
        from sklearn.feature_extraction.text import HashingVectorizer  # it takes a second to import

        super().__init__()
        self.config, self.dim = config, config.ngram_features
        self.hash = HashingVectorizer(n_features=self.dim, ngram_range=(1, 2), token_pattern=TOKEN)

    @torch.inference_mode()
    def forward(self, batch: TextBatch) -> torch.Tensor:
        """float32 features_BD."""
        texts = [filled(self.config, *pair) for pair in _pairs(batch)]
        return torch.from_numpy(self.hash.transform(texts).toarray()).float()


class LanguageModel(nn.Module):
    """A transformers language model by hub name or folder, in evaluation mode.

    The mean is taken over all tokens of the filled template except special ones. It is not taken over the transcript
    alone, whose tokens in a decoder-only model know nothing of a reading that comes after them; and special tokens are
    left out because the first token of many such models has values so large that they would drown the others.
    """

    def __init__(self, config: Text):
        super().__init__()
        self.config = config
        self.placed = config.device_map is not None or config.dtype == "int8"
        self.tokenizer, self.model = _load(config)
        self.dim = self.model.config.hidden_size
        self.max_tokens = min(config.max_tokens, self.tokenizer.model_max_length, _positions(self.model))
        # RoBERTa counts positions by its pad token; for models without one any token will do, since the mask hides it.
        pad = getattr(self.model.config, "pad_token_id", None)
        self.pad = pad if pad is not None and 0 <= pad < self.model.config.vocab_size else 0

    def to(self, *args: Any, **kwargs: Any) -> "LanguageModel":
        """Move the model as `nn.Module.to` does, but leave weights that were placed on devices while loading."""
        return self if self.placed else super().to(*args, **kwargs)

    @torch.inference_mode()
    def forward(self, batch: TextBatch) -> torch.Tensor:
        """float32 features_BD: the mean over layers, then over tokens; NaN for a text without tokens.

        Neighbours never matter. Raises ValueError for layers that the model does not have.
        """
        if not self.placed:
            pretrained.cast(self.model, self.config.dtype)
        rows = [self._tokens(self._fitted(*pair)) for pair in _pairs(batch)]
        features_BD = torch.full((len(rows), self.dim), torch.nan, device=self.model.device)
        usable = [i for i, (_, counted) in enumerate(rows) if len(counted)]
        if usable:
            pooled_BD = self._pooled([rows[i] for i in usable])
            pretrained.check_finite(pooled_BD, tuple(batch.clip_ids[i] for i in usable), "text")
            features_BD[usable] = pooled_BD.to(features_BD.device)
        return features_BD

    def _pooled(self, rows: list[tuple[list[int], range]]) -> torch.Tensor:
        """Features of token ids, padded on the right here, so that padding never changes the position of a token."""
        size = self.model.config.vocab_size
        if any(token >= size for ids, _ in rows for token in ids):  # on a GPU this would end the process
            raise ValueError(
                f"{self.config.encoder}: found tokens beyond the model's {size}, expected its own tokenizer"
            )
        shape = len(rows), max(len(ids) for ids, _ in rows)
        ids_BL, valid_BL, counted_BL = torch.full(shape, self.pad), torch.zeros(shape), torch.zeros(shape)
        for row, (ids, counted) in enumerate(rows):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            valid_BL[row, : len(ids)] = 1
            counted_BL[row, counted.start : counted.stop] = 1
        inputs = {"input_ids": ids_BL, "attention_mask": valid_BL.long()}
        states = pretrained.hidden_states(self.model, **{k: v.to(self.model.device) for k, v in inputs.items()})
        return masked_mean(mean_of_layers(states, self.config.layers), counted_BL)

    def _tokens(self, text: str) -> tuple[list[int], range]:
        """Token ids, and the places of the text among them: special tokens may stand before and after it.

        The places are found by comparing with the ids without special tokens, because the masks of special tokens are
        not reliable in tokenizers with custom code.
        """
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        plain = self.tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"]
        starts = range(len(ids) - len(plain) + 1)
        start = next((i for i in starts if ids[i : i + len(plain)] == plain), None)
        return (ids, range(len(ids))) if start is None else (ids, range(start, start + len(plain)))

    def _fitted(self, transcript: str, reading: str | None) -> str:
        """The filled template in at most `max_tokens` tokens: first the reading is cut short, then the transcript."""
        text = filled(self.config, transcript, reading)
        if len(self._tokens(text)[0]) <= self.max_tokens:
            return text
        if reading:
            shorter = self._longest(reading, lambda part: filled(self.config, transcript, part))
            text = shorter or filled(self.config, transcript)
        if len(self._tokens(text)[0]) <= self.max_tokens:
            return text
        fitting = self._longest(transcript, lambda part: filled(self.config, part))
        if fitting is None:
            raise ValueError(
                f"found text.template={self.config.template!r} filling {self.max_tokens} tokens by itself, expected "
                "room for a transcript: raise text.max_tokens, or shorten the template"
            )
        return fitting

    def _longest(self, text: str, fill: Callable[[str], str]) -> str | None:
        """`fill(part)` for the longest beginning of a text with which it fits; None where none fits."""

        def tokens(length: int) -> int:
            return len(self._tokens(fill(text[:length].rstrip()))[0])

        length = bisect_right(range(1, len(text) + 1), self.max_tokens, key=tokens)
        return fill(text[:length].rstrip()) if length else None


def _load(config: Text) -> tuple[Any, "PreTrainedModel"]:
    """Tokenizer and frozen model. Raises ValueError for missing packages, and for code not trusted or not pinned."""
    check_packages(config)
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # seconds to import

    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    code = check_code(config.encoder, config.revision, config.trust_remote_code)
    tokenizer = pretrained.load(AutoTokenizer, config.encoder, **source)
    # Some repositories, Baichuan2's among them, map their code to the causal class alone; we use its body.
    only_causal = "AutoModel" not in code and "AutoModelForCausalLM" in code and config.trust_remote_code
    auto = AutoModelForCausalLM if only_causal else AutoModel
    device = torch.device(
        "cuda" if torch.cuda.is_available() else "cpu"
    )  # a guess, so that no model for a GPU is loaded in fp32
    if config.dtype == "int8":
        source |= {"dtype": torch.bfloat16, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    else:
        source["dtype"] = pretrained.dtype_on(device, config.dtype)
    body = pretrained.load_body(auto, config.encoder, device_map=config.device_map, **source)
    if len(tokenizer) < body.config.vocab_size / 2:  # transformers makes one up for a folder without its files
        raise ValueError(
            f"{config.encoder}: found a tokenizer of {len(tokenizer)} tokens for a model of {body.config.vocab_size}, "
            "expected its own: copy the tokenizer's files (tokenizer.json, vocab.txt, ...) into the folder"
        )
    return tokenizer, body


def _positions(body: nn.Module) -> float:
    """The number of positions that the model has embeddings for; infinite for models without such embeddings."""
    positions = getattr(body.config, "max_position_embeddings", None) or -1  # some configs say -1 for no table
    table = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    if (before := getattr(table, "padding_idx", None)) is not None:  # RoBERTa's positions start after it
        positions -= before + 1
    return positions if positions > 0 else float("inf")


ENCODERS = {"ngrams": NGrams}


def build(config: Text) -> nn.Module:
    """The encoder that `text.encoder` names."""
    return ENCODERS.get(config.encoder, LanguageModel)(config)
