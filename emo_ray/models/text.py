"""Transcript encoders, all frozen: `(batch) -> features_BD`, with `dim` and, from `digest`, what decides their output.

`ngrams` needs no download; any other name is a transformers language model: mean over valid tokens of the mean of the
last four hidden layers.
"""

import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from emo_ray import store
from emo_ray.data.batch import Batch
from emo_ray.models.pooling import masked_mean, mean_of_layers
from emo_ray.models.pretrained import source_digest
from emo_ray.settings import Text

VERSION = 2
# Runs of letters, single ones too ("I"; scripts written without spaces stay whole), and of signs ("?!").
TOKEN = r"(?u)\w+|[^\w\s]+"


class NGrams(nn.Module):
    """Hashed word uni- and bigrams, unit length: the offline stand-in for a language model."""

    def __init__(self, config: Text):
        super().__init__()
        self.dim = config.ngram_features
        self.hash = HashingVectorizer(n_features=self.dim, ngram_range=(1, 2), token_pattern=TOKEN)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 features_BD."""
        return torch.from_numpy(self.hash.transform(batch.texts).toarray()).float()


class LanguageModel(nn.Module):
    """A transformers language model by hub name or folder, in evaluation mode."""

    def __init__(self, config: Text):
        from transformers import AutoModel, AutoTokenizer  # seconds to import

        super().__init__()
        self.layers, self.max_tokens = config.layers, config.max_tokens
        source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        self.tokenizer = AutoTokenizer.from_pretrained(config.encoder, padding_side="right", **source)
        if self.tokenizer.pad_token is None:  # decoder-only models often have none; the mask hides what it is
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModel.from_pretrained(config.encoder, dtype=torch.float32, **source).eval()
        self.dim = self.model.config.hidden_size

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 features_BD: hidden layers averaged, then tokens, over valid tokens alone."""
        inputs = self.tokenizer(
            list(batch.texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        states = self.model(**inputs, output_hidden_states=True).hidden_states
        return masked_mean(mean_of_layers(states, self.layers), inputs["attention_mask"])


ENCODERS = {"ngrams": NGrams}


def build(config: Text) -> nn.Module:
    """The encoder that `text.encoder` names."""
    return ENCODERS.get(config.encoder, LanguageModel)(config)


def digest(config: Text) -> str:
    """What decides the encoder's output, without loading it."""
    if config.encoder in ENCODERS:
        return store.digest("text", config.encoder, config.ngram_features, VERSION)
    settings = config.model_dump(mode="json", exclude={"batch_size", "ngram_features", "trust_remote_code"})
    return store.digest("text", settings, source_digest(config.encoder, config.revision), VERSION)
