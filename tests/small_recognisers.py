"""Speech recognisers with a few thousand random weights, of each kind, in the form of transformers' folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LETTERS = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}  # a token for each byte
_WHISPER_TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>")
_WHISPER_TOKENS += ("<|nospeech|>", "<|notimestamps|>")
_TEMPLATE = (  # of the chat, as Qwen3-ASR's is built
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% if not (loop.last and continue_final_message) %}<|im_end|>\n{% endif %}{% endfor %}"
)


def whisper(folder: Path, multilingual: bool = True) -> Path:
    """A Whisper of two languages, or of English alone."""
    tokenizer = WhisperTokenizer(vocab=dict(LETTERS), merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(_WHISPER_TOKENS)})
    id_of = {token: tokenizer.convert_tokens_to_ids(token) for token in _WHISPER_TOKENS}
    end, start = id_of["<|endoftext|>"], id_of["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, max_target_positions=80,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, init_std=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    about = {
        "is_multilingual": multilingual,
        "no_timestamps_token_id": id_of["<|notimestamps|>"],
        "suppress_tokens": [start, id_of["<|nospeech|>"]],
        "begin_suppress_tokens": [end],
    }
    if multilingual:
        about["lang_to_id"] = {token: id_of[token] for token in ("<|en|>", "<|zh|>")}
        about["task_to_id"] = {name: id_of[f"<|{name}|>"] for name in ("translate", "transcribe")}
    model.generation_config = GenerationConfig(
        **about, decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def moonshine(folder: Path) -> Path:
    """A Moonshine, which takes waveforms."""
    plain = Tokenizer(BPE(vocab=dict(LETTERS), merges=[]))
    plain.pre_tokenizer, plain.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    sizes |= {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    config = MoonshineConfig(
        vocab_size=len(tokenizer), bos_token_id=start, decoder_start_token_id=start, eos_token_id=end, pad_token_id=end,
        initializer_range=0.5, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    MoonshineForConditionalGeneration(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def on_request(folder: Path) -> Path:
    """A Qwen3-ASR, whose processor words the request."""
    named = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = Qwen2Tokenizer(vocab=dict(LETTERS), merges=[], extra_special_tokens=named)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "<asr_text>"])
    id_of = tokenizer.get_vocab()
    audio = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    audio |= {"d_model": 16, "output_dim": 16, "downsample_hidden_size": 8}
    words = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    words |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.5}
    words |= {"max_position_embeddings": 4096}
    config = Qwen3ASRConfig(
        audio_config=audio,
        text_config=words | {"tie_word_embeddings": True},
        audio_token_id=id_of["<|audio_pad|>"],
        pad_token_id=id_of["<|endoftext|>"],
        eos_token_id=[id_of["<|im_end|>"]],
    )
    torch.manual_seed(0)
    Qwen3ASRForConditionalGeneration(config).save_pretrained(folder)
    extractor = Qwen3ASRFeatureExtractor(feature_size=16)
    Qwen3ASRProcessor(extractor, tokenizer, chat_template=_TEMPLATE).save_pretrained(folder)
    return folder
