"""Transcript encoders, all frozen: `(batch) -> features_BD`, with `dim`; `identity` tells what decides their output.

A row of NaN says that the encoder has no feature for that clip: nothing of its text became a token. `ngrams` needs no
download; any other name is a transformers encoder or decoder-only language model: mean over tokens of the mean of the
last four hidden layers.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from emo_ray.config.model_settings import Text
from emo_ray.data.batch import TextBatch
from emo_ray.models import pretrained
from emo_ray.models.hidden_states import masked_mean, mean_of_layers
from emo_ray.models.pretrained_source import check_code

# Runs of letters, single ones too ("I"; scripts written without spaces stay whole), and of signs ("?!").
TOKEN = r"(?u)\w+|[^\w\s]+"
_PLACE = re.compile(r"{(transcript|reading)}")


def filled(config: Text, transcript: str, reading: str | None = None) -> str:
    """What is encoded of a clip: `text.template_with_reading` where it has a reading, else `text.template`."""
    places = {"transcript": transcript, "reading": reading}
    template = config.template_with_reading if reading and reading.strip() else config.template
    return _PLACE.sub(lambda place: places[place[1]], template)


def _pairs(batch: TextBatch) -> list[tuple[str, str | None]]:
    return list(zip(batch.texts, batch.readings, strict=True))


class NGrams(nn.Module):
    """Hashed word uni- and bigrams, unit length: the offline stand-in for a language model."""

    def __init__(self, config: Text):
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

    The mean is taken over all tokens of the filled template but special ones. Not over the transcript's alone: in a
    decoder-only model these know nothing of a reading that comes after them. Not over special ones: the first token of
    many such models carries values so large that they would drown the others.
    """

    def __init__(self, config: Text):
        super().__init__()
        self.config = config
        self.placed = config.device_map is not None or config.dtype == "int8"
        self.tokenizer, self.model = _loaded(config)
        self.dim = self.model.config.hidden_size
        self.most = min(config.max_tokens, self.tokenizer.model_max_length, _positions(self.model))
        # The model's own pad token (RoBERTa counts positions by it), else any: the mask hides it.
        pad = getattr(self.model.config, "pad_token_id", None)
        self.pad = pad if pad is not None and 0 <= pad < self.model.config.vocab_size else 0

    def to(self, *args: Any, **kwargs: Any) -> "LanguageModel":
        """As `nn.Module.to`; weights that were placed while they were loaded stay where they are."""
        return self if self.placed else super().to(*args, **kwargs)

    @torch.inference_mode()
    def forward(self, batch: TextBatch) -> torch.Tensor:
        """float32 features_BD: hidden layers averaged, then tokens; NaN for a text without tokens.

        Neighbours never matter. Raises ValueError for layers that the model has not.
        """
        if not self.placed:
            self.model.to(pretrained.dtype_on(self.model.device, self.config.dtype))
        rows = [self._tokens(self._fitted(*pair)) for pair in _pairs(batch)]
        features_BD = torch.full((len(rows), self.dim), torch.nan, device=self.model.device)
        usable = [i for i, (_, counted) in enumerate(rows) if len(counted)]
        if usable:
            found_BD = self._pooled([rows[i] for i in usable])
            pretrained.check_finite(found_BD, tuple(batch.clip_ids[i] for i in usable), "text")
            features_BD[usable] = found_BD.to(features_BD.device)
        return features_BD

    def _pooled(self, rows: list[tuple[list[int], range]]) -> torch.Tensor:
        """Padded on the right by hand: so each token has the position that it has alone, whatever a tokenizer does."""
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
        """Token ids, and where among them the text's own lie: special ones may stand before and after these.

        Found by comparison: the masks of special tokens of tokenizers with code of their own are not to be relied on.
        """
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        own = self.tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"]
        starts = range(len(ids) - len(own) + 1)
        start = next((i for i in starts if ids[i : i + len(own)] == own), None)
        return (ids, range(len(ids))) if start is None else (ids, range(start, start + len(own)))

    def _fitted(self, transcript: str, reading: str | None) -> str:
        """The filled template in at most `self.most` tokens: the reading's end is cut, then the transcript's."""
        text, alone = filled(self.config, transcript, reading), filled(self.config, transcript)
        if len(self._tokens(text)[0]) <= self.most:
            return text
        if reading:
            text = self._longest(reading, lambda part: filled(self.config, transcript, part)) or alone
        if len(self._tokens(text)[0]) <= self.most:
            return text
        text = self._longest(transcript, lambda part: filled(self.config, part))
        if text is None:
            raise ValueError(
                f"found text.template={self.config.template!r} filling {self.most} tokens by itself, expected room for "
                "a transcript: raise text.max_tokens, or shorten the template"
            )
        return text

    def _longest(self, text: str, fill: Callable[[str], str]) -> str | None:
        """`fill` of the longest beginning of a text with which it fits; None where no beginning does."""

        def tokens(length: int) -> int:
            return len(self._tokens(fill(text[:length].rstrip()))[0])

        length = bisect_right(range(1, len(text) + 1), self.most, key=tokens)
        return fill(text[:length].rstrip()) if length else None


def _loaded(config: Text) -> tuple[Any, nn.Module]:
    """Tokenizer and model, frozen. Raises ValueError for missing packages and for code not trusted or not pinned."""
    wanted = {"accelerate"} if config.device_map else set()
    wanted |= {"accelerate", "bitsandbytes"} if config.dtype == "int8" else set()
    if missing := sorted(name for name in wanted if find_spec(name) is None):
        raise ValueError(
            f"found text.dtype={config.dtype} and text.device_map={config.device_map} without {' and '.join(missing)}, "
            f"expected it installed: pip install {' '.join(missing)}"
        )
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # seconds to import

    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    code = check_code(config.encoder, config.revision, config.trust_remote_code)
    tokenizer = pretrained.load(AutoTokenizer, config.encoder, **source)
    # Some repositories, Baichuan2's among them, map their code to the causal class alone; its body is what we want.
    only_causal = "AutoModel" not in code and "AutoModelForCausalLM" in code and config.trust_remote_code
    auto = AutoModelForCausalLM if only_causal else AutoModel
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # a guess, so that no GPU's model is in fp32
    if config.dtype == "int8":
        source |= {"dtype": torch.bfloat16, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    else:
        source["dtype"] = pretrained.dtype_on(device, config.dtype)
    body = pretrained.load_body(auto, config.encoder, device_map=config.device_map, **source)
    if len(tokenizer) < body.config.vocab_size / 2:  # made up by transformers where a folder has no files of one
        raise ValueError(
            f"{config.encoder}: found a tokenizer of {len(tokenizer)} tokens for a model of {body.config.vocab_size}, "
            "expected its own: copy the tokenizer's files (tokenizer.json, vocab.txt, ...) into the folder"
        )
    return tokenizer, body


def _positions(body: nn.Module) -> float:
    """How many tokens the model's table of positions has room for."""
    positions = getattr(body.config, "max_position_embeddings", None) or -1  # -1 is how some say that there is no table
    table = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    if (before := getattr(table, "padding_idx", None)) is not None:  # RoBERTa and its kin start behind it
        positions -= before + 1
    return positions if positions > 0 else float("inf")


ENCODERS = {"ngrams": NGrams}


def build(config: Text) -> nn.Module:
    """The encoder that `text.encoder` names."""
    return ENCODERS.get(config.encoder, LanguageModel)(config)
