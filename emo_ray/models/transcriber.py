"""Speech recognisers of transformers: `(sounds, language) -> transcriptions`, by hub name or folder.

There are two kinds. Whisper and its like take features of sound and generate; models whose processor has
`apply_transcription_request` are language models that are asked to write down a sound. Both choose the likeliest token
at each step, so the same sound gives the same words.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.config.media_settings import RATE_HZ
from emo_ray.data.transcripts import Transcription
from emo_ray.models import pretrained

_TOKENS_PER_S, _MORE_TOKENS = 40, 16  # most tokens that a sound can hold: more is a model that goes round in circles
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # Whisper's names of one token


class Transcriber(nn.Module):
    """A recogniser in evaluation mode; subclasses know how their kind is asked."""

    def __init__(self, config: Transcribe, processor: Any, model: Any):
        super().__init__()
        self.config, self.processor, self.model = config, processor, model

    @torch.inference_mode()
    def forward(self, waves: Sequence[np.ndarray], language: str | None) -> list[Transcription]:
        """Write down sounds of at most 30 s (float32 samples in [-1, 1) at 16 kHz).

        `language` is that of them all; None: whichever is heard. One that the model does not know is an error of each
        sound. Neighbours never matter to Whisper. Models on request hear the padding of a batch a little, and where
        `may_pad` is false, sounds of different lengths would disturb each other.
        """
        pretrained.cast(self.model, self.config.dtype)
        try:
            return self._heard(waves, language)
        except UnknownLanguage as error:
            return [Transcription(language=language, error=str(error))] * len(waves)

    @property
    def may_pad(self) -> bool:
        """Whether sounds of different lengths may be heard together."""
        return True

    def _heard(self, waves: Sequence[np.ndarray], language: str | None) -> list[Transcription]:
        raise NotImplementedError

    def _generated(self, waves: Sequence[np.ndarray], **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The new tokens of sounds (B, L) and the log-probability of each (B, L), NaN behind a sound's last token."""
        from transformers import LogitsProcessorList  # seconds to import

        most_B = torch.tensor([round(len(wave_S) / RATE_HZ * _TOKENS_PER_S) + _MORE_TOKENS for wave_S in waves])
        places = getattr(self.model.config, "max_target_positions", None)
        if places is not None:
            most_B = most_B.clamp(max=places // 2)  # the others are for what stands before
        chosen = ChosenTokens()
        with _quiet():
            output = self.model.generate(
                **inputs,
                max_new_tokens=int(most_B.max()),
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,  # else Whisper takes out some tokens
                logits_processor=LogitsProcessorList([chosen]),
            )
        log_prob_BL = torch.stack(chosen.log_prob_B, dim=1)
        new_BL = output.sequences[:, -log_prob_BL.shape[1] :]
        is_end_BL = torch.isin(new_BL, torch.tensor(self.ends, device=new_BL.device))
        is_over_BL = is_end_BL.cumsum(dim=1) > is_end_BL.long()
        is_over_BL |= (torch.arange(new_BL.shape[1]) >= most_B[:, None]).to(new_BL.device)
        return new_BL.masked_fill(is_over_BL, self.ends[0]), log_prob_BL.masked_fill(is_over_BL, torch.nan)

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return list(ends) if isinstance(ends, list | tuple) else [ends]


class UnknownLanguage(ValueError):
    """A language that a model does not write."""


class ChosenTokens:
    """A logits processor that changes nothing, and keeps the log-probability of the likeliest token of each step."""

    def __init__(self) -> None:
        self.log_prob_B: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Keep the log-probability of the likeliest token of each sound; the scores stay as they are."""
        self.log_prob_B.append(scores_BV.float().log_softmax(dim=-1).amax(dim=-1))
        return scores_BV


class WhisperLike(Transcriber):
    """An encoder of sound and a decoder of words."""

    def _heard(self, waves: Sequence[np.ndarray], language: str | None) -> list[Transcription]:
        padding = {} if self._is_whisper else {"padding": True}  # Whisper pads to 30 s by itself
        inputs = self.processor(
            list(waves), sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True, **padding
        ).to(self.model.device, self.model.dtype)
        if not self._is_whisper:
            tokens_BL, log_prob_BL = self._generated(waves, **inputs)
            return self._written(tokens_BL, log_prob_BL, [language] * len(waves), [None] * len(waves))
        encoded = self.model.get_encoder()(inputs["input_features"])
        languages = self._languages(encoded, language, len(waves))
        spoken = {"language": languages, "task": "transcribe"} if self._is_multilingual else {}
        tokens_BL, log_prob_BL = self._generated(
            waves, encoder_outputs=encoded, attention_mask=inputs["attention_mask"], return_timestamps=False, **spoken
        )
        return self._written(tokens_BL, log_prob_BL, languages, self._no_speech(encoded, len(waves)))

    @property
    def may_pad(self) -> bool:
        """True of Whisper alone: Moonshine's convolutions know no mask."""
        return self._is_whisper

    @property
    def _is_whisper(self) -> bool:
        return self.model.config.model_type == "whisper"

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    def _languages(self, encoded: Any, language: str | None, count: int) -> list[str]:
        """The language of each sound, as a code: the one that is asked for, else the one that is heard."""
        if not self._is_multilingual:
            if language is not None and language.lower() not in ("en", "english"):
                raise UnknownLanguage(f"found language {language!r}, expected en: {self.config.model} knows no other")
            return ["en"] * count
        id_of = self.model.generation_config.lang_to_id
        if language is not None:
            from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

            code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
            if f"<|{code}|>" not in id_of:
                raise UnknownLanguage(f"found language {language!r}, expected one that {self.config.model} knows")
            return [code] * count
        code_of = {number: token.strip("<|>") for token, number in id_of.items()}
        heard_B = self.model.detect_language(encoder_outputs=encoded, generation_config=self.model.generation_config)
        return [code_of[int(number)] for number in heard_B]

    def _no_speech(self, encoded: Any, count: int) -> list[float | None]:
        """The probability of Whisper's token for "nobody speaks", where that token is a model's first."""
        vocabulary = self.processor.tokenizer.get_vocab()
        token = next((vocabulary[name] for name in _NO_SPEECH if name in vocabulary), None)
        if token is None:
            return [None] * count
        start = self.model.generation_config.decoder_start_token_id
        first_B1 = torch.full((count, 1), start, device=self.model.device)
        logits_BV = self.model(encoder_outputs=encoded, decoder_input_ids=first_B1).logits[:, 0]
        return [float(chance) for chance in logits_BV.float().softmax(dim=-1)[:, token]]

    def _written(
        self, tokens_BL: torch.Tensor, log_prob_BL: torch.Tensor, languages: Sequence[str | None],
        no_speech: Sequence[float | None],
    ) -> list[Transcription]:  # fmt: skip
        texts = self.processor.batch_decode(tokens_BL, skip_special_tokens=True)
        means = log_prob_BL.nanmean(dim=1).tolist()
        return [Transcription(*values) for values in zip(texts, languages, means, no_speech, strict=True)]


class OnRequest(Transcriber):
    """A language model that hears, and whose processor words the request."""

    def _heard(self, waves: Sequence[np.ndarray], language: str | None) -> list[Transcription]:
        request = self.processor.apply_transcription_request
        parameters = inspect.signature(request).parameters
        name = next((name for name in ("language", "source_language") if name in parameters), None)
        asked = {name: [language] * len(waves)} if name and language is not None else {}
        try:
            inputs = request(audio=list(waves), **asked)
        except ValueError as error:
            if asked:
                raise UnknownLanguage(str(error).partition(". ")[0]) from error
            raise
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens_BL, log_prob_BL = self._generated(waves, **inputs)
        raw = self.processor.batch_decode(tokens_BL, skip_special_tokens=True)
        means = log_prob_BL.nanmean(dim=1).tolist()
        return [Transcription(*self._parsed(text, language), mean) for text, mean in zip(raw, means, strict=True)]

    def _parsed(self, raw: str, language: str | None) -> tuple[str, str | None]:
        """The words of an answer and their language, as far as the processor can tell them apart."""
        if hasattr(self.processor, "parse_output"):
            parsed = self.processor.parse_output(raw)
            return parsed["transcription"], language or parsed["language"]
        if hasattr(self.processor, "extract_transcription"):
            return str(self.processor.extract_transcription(raw)), language
        return raw, language


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' words on each pass, about lengths that a checkpoint's own settings name as well."""
    logger = logging.getLogger("transformers.generation.utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def build(config: Transcribe) -> Transcriber:
    """The recogniser that `transcribe.model` names. Raises ValueError for a model of no kind that is known here."""
    from transformers import (  # seconds to import
        AutoConfig,
        AutoModelForMultimodalLM,
        AutoModelForSpeechSeq2Seq,
        AutoProcessor,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING

    assert config.model is not None, "an encoder is made where a model is named"
    processor = pretrained.load(AutoProcessor, config.model, revision=config.revision)
    on_request = hasattr(processor, "apply_transcription_request")
    rate_hz = getattr(getattr(processor, "feature_extractor", None), "sampling_rate", None)
    if rate_hz != RATE_HZ:
        raise ValueError(
            f"{config.model}: found a processor of {rate_hz} Hz sound, expected {RATE_HZ} Hz, which is what shards "
            "hold: choose another model"
        )
    architecture = pretrained.load(AutoConfig, config.model, revision=config.revision)
    is_known = type(architecture) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    auto = AutoModelForSpeechSeq2Seq if is_known or not on_request else AutoModelForMultimodalLM
    model, loading = pretrained.load(
        auto, config.model, revision=config.revision, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{config.model}: found no weights for {missing[0]} ({len(missing)} like it), expected a whole checkpoint "
            f"of {type(model).__name__}: copy it again, or mend its config.json"
        )
    if model.generation_config.eos_token_id is None:
        raise ValueError(f"{config.model}: found no eos_token_id in its generation_config.json, expected one")
    kind = OnRequest if on_request else WhisperLike
    return kind(config, processor, model.requires_grad_(False).eval())
