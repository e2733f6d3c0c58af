"""Recognisers of both kinds: what transformers itself gives for a sound alone, and what they say of what they heard."""

import json
from functools import cache

import numpy as np
import pytest
import small_recognisers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.models import transcriber
from emo_ray.models.transcriber import RATE_HZ


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a small model of each kind, and of a Whisper that knows English alone."""
    root = tmp_path_factory.mktemp("recognisers")
    return {
        "whisper": small_recognisers.whisper(root / "whisper"),
        "english": small_recognisers.whisper(root / "english", multilingual=False),
        "moonshine": small_recognisers.moonshine(root / "moonshine"),
        "on request": small_recognisers.on_request(root / "request"),
    }


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [0.1 * rng.normal(size=round(seconds * RATE_HZ)).astype(np.float32) for seconds in (0.3, 0.5, 0.4)]


@pytest.fixture(scope="module")
def build(folders):
    """A function to the recogniser of a kind."""
    return lambda kind, **changes: transcriber.build(Transcribe(model=str(folders[kind]), dtype="fp32", **changes))


@cache
def transformers_own(folder):
    """The processor and the model of a folder, as transformers loads them."""
    return AutoProcessor.from_pretrained(folder), AutoModelForSpeechSeq2Seq.from_pretrained(folder)


@torch.inference_mode()
def whisper_alone(folder, wave_S, language):
    """Text, mean log-probability and probability of no speech, token by token without `generate`."""
    processor, model = transformers_own(folder)
    id_of, settings = processor.tokenizer.get_vocab(), model.generation_config
    heard = model.get_encoder()(processor(wave_S, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"])
    start = id_of["<|startoftranscript|>"]
    first_V = model(encoder_outputs=heard, decoder_input_ids=torch.tensor([[start]])).logits[0, -1].softmax(-1)
    ids = [start, id_of[f"<|{language}|>"], id_of["<|transcribe|>"], id_of["<|notimestamps|>"]]
    prompt, log_probs = len(ids), []
    for _ in range(min(round(len(wave_S) / RATE_HZ * 40) + 16, model.config.max_target_positions // 2)):
        scores_V = model(encoder_outputs=heard, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
        scores_V[settings.suppress_tokens] = -torch.inf
        if len(ids) == prompt:
            scores_V[settings.begin_suppress_tokens] = -torch.inf
        log_probs.append(scores_V.log_softmax(-1).max().item())
        ids.append(int(scores_V.argmax()))
        if ids[-1] == id_of["<|endoftext|>"]:
            break
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    return text, np.mean(log_probs), float(first_V[id_of["<|nospeech|>"]])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_whisper_writes_what_its_likeliest_tokens_say(folders, build, waves, language):
    for said, wave_S in zip(build("whisper")(waves[:2], language), waves, strict=False):
        text, log_prob, no_speech = whisper_alone(folders["whisper"], wave_S, language)
        assert (said.text, said.language, said.error) == (text, language, None)
        assert said.log_prob == pytest.approx(log_prob, abs=1e-3)
        assert said.no_speech == pytest.approx(no_speech, abs=1e-4)


def test_whispers_sounds_do_not_know_their_neighbours(build, waves):
    recogniser = build("whisper")
    together = recogniser(waves[1:], "en")
    assert len(together[0].text) != len(together[1].text), "one has room for more tokens"
    for said, wave_S in zip(together, waves[1:], strict=True):
        (alone,) = recogniser([wave_S], "en")
        assert (alone.text, alone.language) == (said.text, said.language)
        assert (alone.log_prob, alone.no_speech) == pytest.approx((said.log_prob, said.no_speech), abs=1e-4)


def test_a_language_that_nobody_names_is_heard(folders, build, waves):
    languages = [said.language for said in build("whisper")(waves, None)]
    processor, model = transformers_own(folders["whisper"])
    features = processor(waves, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
    code_of = {number: token[2:4] for token, number in model.generation_config.lang_to_id.items()}
    assert languages == [code_of[int(number)] for number in model.detect_language(features)]


@pytest.mark.parametrize(
    ("kind", "language"), [("whisper", "xx"), ("whisper", "de"), ("english", "zh"), ("on request", "xx")]
)
def test_a_language_that_a_model_does_not_know_is_an_error_of_the_sound(build, waves, kind, language):
    for said in build(kind)(waves, language):
        assert (said.text, said.log_prob) == ("", None)
        assert language in said.error


def test_a_model_of_english_alone_writes_english(build, waves):
    recogniser = build("english")
    assert [said.language for said in recogniser(waves, None)] == ["en"] * 3
    assert recogniser(waves, "English") == recogniser(waves, None)


def test_moonshine_writes_what_transformers_generates_and_takes_equal_lengths_alone(folders, build, waves):
    recogniser = build("moonshine")
    assert not recogniser.may_pad
    assert build("whisper").may_pad
    processor, model = recogniser.processor, AutoModelForSpeechSeq2Seq.from_pretrained(folders["moonshine"])
    inputs = processor([waves[0]], sampling_rate=RATE_HZ, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=round(0.3 * 40) + 16, do_sample=False)
    twice = recogniser([waves[0], waves[0]], "en")
    assert [said.text for said in twice] == processor.batch_decode(ids, skip_special_tokens=True) * 2
    assert {(said.language, said.no_speech, said.error) for said in twice} == {("en", None, None)}
    assert twice[0].log_prob < 0


def test_a_model_on_request_writes_what_transformers_generates(folders, build, waves):
    processor = AutoProcessor.from_pretrained(folders["on request"])
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folders["on request"])
    for language in (None, "en"):
        (said,) = build("on request")([waves[0]], language)
        inputs = processor.apply_transcription_request(audio=[waves[0]], language=language)
        ids = model.generate(**inputs, max_new_tokens=round(0.3 * 40) + 16, do_sample=False)
        raw = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        assert said.text == processor.extract_transcription(raw) != ""
        assert (said.no_speech, said.error) == (None, None)
        assert said.log_prob < 0
        assert language is None or said.language == language


@pytest.mark.parametrize("kind", ["whisper", "on request"])
def test_weights_that_are_missing_are_named(folders, tmp_path, kind):
    folder = tmp_path / "torn"
    folder.mkdir()
    for file in folders[kind].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "fc1" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"torn: found no weights for .*fc1"):
        transcriber.build(Transcribe(model=str(folder)))


def test_models_that_cannot_be_used_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="nothing here"):
        transcriber.build(Transcribe(model=str(tmp_path / "nothing here")))
    folder = tmp_path / "other rate"
    folder.mkdir()
    for file in folders["whisper"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    about = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(about | {"sampling_rate": 24000}))
    with pytest.raises(ValueError, match="24000 Hz"):
        transcriber.build(Transcribe(model=str(folder)))
