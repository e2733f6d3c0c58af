"""Sound encoders: neighbours never matter, and features are pooled as the docstrings say."""

import json
import math
import shutil
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoFeatureExtractor,
    AutoModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    SEWConfig,
    SEWModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from emo_ray.config.model_settings import Audio
from emo_ray.data.batch import AudioBatch, unlabelled
from emo_ray.models import audio, functionals
from emo_ray.models.identity import audio_digest

RATE = 16_000


def batch_of(*waves):
    lengths = torch.tensor([len(w) for w in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    names = tuple(map(str, range(len(waves))))
    return AudioBatch(
        clip_ids=names,
        present_BM=torch.ones(len(waves), 3, dtype=torch.bool),
        label_B=unlabelled(len(waves)),
        audio_BS=padded,
        audio_lengths_B=lengths,
    )


def tone(hz, seconds, level=0.3):
    """A harmonic tone, as voiced speech is."""
    time = torch.arange(int(seconds * RATE)) / RATE
    return level * sum(torch.sin(2 * math.pi * hz * k * time) / k for k in range(1, 6)) / 2


def noise(seconds, seed=0):
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


WAVES = [
    *(noise(0.7), tone(120, 2.0), tone(240, 1.3), noise(3.1, 1)),
    *(torch.zeros(RATE), tone(180, 0.9), noise(0.025, 2), tone(300, 1.3)[:20_799]),
]
SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 24, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "begin_suppress_tokens": None,
}  # fmt: skip
NO_MASK, MASK = Wav2Vec2FeatureExtractor(), Wav2Vec2FeatureExtractor(return_attention_mask=True)
ODD = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False, padding_value=0.5, padding_side="left")
FAMILIES = {  # model class, architecture, feature extractor
    "hubert-base": (HubertModel, HubertConfig(**SHAPE), NO_MASK),  # group norm
    "hubert-large": (HubertModel, HubertConfig(**SHAPE, **LARGE), MASK),
    "hubert-unmasked": (HubertModel, HubertConfig(**SHAPE, **LARGE), NO_MASK),
    "hubert-odd": (HubertModel, HubertConfig(**SHAPE, feat_extract_norm="layer"), ODD),
    "hubert-batch-norm": (HubertModel, HubertConfig(**SHAPE, **LARGE, conv_pos_batch_norm=True), MASK),
    "wav2vec2-base": (Wav2Vec2Model, Wav2Vec2Config(**SHAPE), NO_MASK),
    "wav2vec2-large": (Wav2Vec2Model, Wav2Vec2Config(**SHAPE, **LARGE, add_adapter=True), MASK),
    "wavlm-base": (WavLMModel, WavLMConfig(**SHAPE), MASK),  # whose folder asks for a mask that cannot help
    "wavlm-large": (WavLMModel, WavLMConfig(**SHAPE, **LARGE), MASK),
    "data2vec": (Data2VecAudioModel, Data2VecAudioConfig(**SHAPE, conv_pos_kernel_size=5), MASK),
    "whisper": (WhisperModel, WhisperConfig(**WHISPER), WhisperFeatureExtractor()),
}


def saved(folder, family, architecture, extract):
    """A folder with a tiny model whose biases and norms are not the 0 and 1 they start with."""
    torch.manual_seed(0)
    model = family(architecture)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    extract.save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def speech(request, folder_of):
    return folder_of(request.param)


@pytest.fixture
def hubert(folder_of):
    return folder_of("hubert-large")


def test_code_beside_a_model_does_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    classes = {name: f"modeling_own.{name}" for name in ("AutoConfig", "AutoModel", "AutoFeatureExtractor")}
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    with pytest.raises(ValueError, match="model: found nothing that AutoFeatureExtractor"):
        audio.build(Audio(encoder=str(folder)))
    assert not questions
    assert not ran.exists()


@cache
def transformers_own(folder):
    """The feature extractor and the model of a folder, as transformers loads them."""
    return AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def plainly(folder, wave, layers):
    """The mean over frames of the mean over layers, of one clip without padding, computed with transformers."""
    extract, model = transformers_own(folder)
    inputs = extract(wave.numpy(), sampling_rate=RATE, return_tensors="pt", return_attention_mask=False)
    with torch.inference_mode():
        if isinstance(model, WhisperModel):  # a frame per 20 ms; the others stand for the padding to 30 s
            states = model.encoder(**inputs, output_hidden_states=True).hidden_states
            states = [state[:, : math.ceil(len(wave) / 320)] for state in states]
        else:
            states = model(**inputs, output_hidden_states=True).hidden_states
    return torch.stack([states[layer] for layer in layers]).mean(dim=0).mean(dim=1)


def test_functionals_do_not_depend_on_neighbours():
    encode = audio.build(Audio())
    alone = torch.cat([encode(batch_of(wave)) for wave in WAVES])
    assert torch.equal(encode(batch_of(*WAVES)), alone)
    assert alone.shape == (len(WAVES), encode.dim)


@pytest.mark.parametrize("samples", [400, 8000])
def test_functionals_are_finite_for_silence_and_for_short_sound(samples):
    encode = audio.build(Audio())
    for wave in (torch.zeros(samples), noise(1)[:samples], torch.ones(samples)):
        assert encode(batch_of(wave)).isfinite().all()


def test_functionals_have_nothing_for_less_than_one_frame():
    encode = audio.build(Audio())
    actual = encode(batch_of(noise(1)[:399], WAVES[1], noise(1)[:1]))
    assert actual.isnan().all(dim=1).tolist() == [True, False, True]
    assert torch.equal(actual[1:2], encode(batch_of(WAVES[1])))


def test_functionals_hear_pitch_and_loudness():
    """Features are in the order of their names; tests/models/test_audio_functionals.py looks at each."""
    low_S, high_S, quiet_S = tone(110, 2), tone(220, 2), tone(110, 2, level=0.03)
    low, high, quiet = audio.build(Audio())(batch_of(low_S, high_S, quiet_S))
    place = {name: i for i, name in enumerate(functionals.statistics(low_S.double().numpy()))}
    assert abs((high - low)[place["F0: median"]] - 12) < 0.5  # an octave
    assert abs((low - quiet)[place["level"]] - 20) < 0.5  # a tenth of the amplitude


def test_a_speech_model_does_not_depend_on_neighbours(speech):
    encode = audio.build(Audio(encoder=speech, layers=(0, 2, -1)))
    alone = torch.cat([encode(batch_of(wave)) for wave in WAVES])
    torch.testing.assert_close(encode(batch_of(*WAVES)), alone, atol=1e-5, rtol=0)
    assert alone.shape == (8, encode.dim)
    assert alone.isfinite().all()


def test_a_speech_model_is_the_mean_over_time_of_the_mean_of_layers(speech):
    encode = audio.build(Audio(encoder=speech, layers=(-1, -3, 0)))
    expected = torch.cat([plainly(speech, wave, (-1, -3, 0)) for wave in WAVES])
    torch.testing.assert_close(encode(batch_of(*WAVES)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["hubert-base", "hubert-batch-norm", "wavlm-base"])
def test_a_mask_does_not_undo_padding_for_some_models(folder_of, family):
    """So these models take clips of one length only. It also shows that the tests above would notice."""
    folder, waves = folder_of(family), [wave.numpy() for wave in WAVES[:2]]
    model = AutoModel.from_pretrained(folder).eval()
    inputs = MASK(waves, sampling_rate=RATE, padding=True, return_tensors="pt")
    with torch.inference_mode(), pytest.warns() if family == "wavlm-base" else torch.no_grad():
        state_BFD = model(**inputs, output_hidden_states=True).hidden_states[0]
    alone = plainly(folder, WAVES[0], (0,))
    assert (state_BFD[:1, : (len(WAVES[0]) - 400) // 320 + 1].mean(dim=1) - alone).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_shorter_than_the_receptive_field_has_no_feature(folder_of, family):
    encode, click = audio.build(Audio(encoder=folder_of(family), layers=(-1,))), noise(1)[:399]
    actual = encode(batch_of(click, WAVES[1], click[:1], WAVES[6]))
    assert actual.isnan().all(dim=1).tolist() == [True, False, True, False]
    torch.testing.assert_close(actual[1:2], encode(batch_of(WAVES[1])), atol=1e-5, rtol=0)
    assert encode(batch_of(click)).isnan().all()


@given(samples=st.integers(0, 500), size=st.integers(1, 100), share=st.floats(0, 0.99))
def test_windows_cover_every_moment_once(samples, size, share):
    overlap = int(share * size)
    stretches = audio.windows(samples, size, overlap)
    assert [first for *_, first, _ in stretches] == [0, *(last for *_, last in stretches[:-1])]
    assert stretches[-1][1] == stretches[-1][3] == samples
    assert all(start <= first <= last <= stop <= start + size for start, stop, first, last in stretches)
    assert all(a[1] - b[0] == overlap for a, b in pairwise(stretches))


def test_windows_give_what_the_whole_does_where_context_is_short(folder_of):
    """Hidden state 0 depends on five frames only, so it shows whether each frame counts once."""
    folder, wave = folder_of("hubert-odd"), noise(5.3, 3)
    for window_s, overlap_s in ((1.0, 0.4), (2.0, 0.2), (3.0, 0.2), (5.0, 0.2)):
        encode = audio.build(Audio(encoder=folder, layers=(0,), window_s=window_s, overlap_s=overlap_s))
        torch.testing.assert_close(encode(batch_of(wave)), plainly(folder, wave, (0,)), atol=1e-5, rtol=0)


def test_windows_do_not_depend_on_neighbours(speech):
    encode = audio.build(Audio(encoder=speech, layers=(0, -1), window_s=1.0, overlap_s=0.25, batch_size=3))
    waves = [WAVES[i] for i in (0, 1, 3, 6)]  # less than a window, two and more, a few frames
    alone = torch.cat([encode(batch_of(wave)) for wave in waves])
    torch.testing.assert_close(encode(batch_of(*waves)), alone, atol=1e-5, rtol=0)
    whole = audio.build(Audio(encoder=speech, layers=(0, -1)))(batch_of(WAVES[3]))
    assert not torch.allclose(alone[2:3], whole, atol=1e-5)  # the last layer sees one window, not the whole


def test_windows_that_cannot_be(folder_of):
    with pytest.raises(ValueError, match=r"audio\.window_s=31 .* 30 s"):
        audio.build(Audio(encoder=folder_of("whisper"), window_s=31))
    with pytest.raises(ValueError, match=r"audio\.overlap_s=2 .*audio\.window_s=2"):
        Audio(window_s=2, overlap_s=2)


def test_digest_follows_what_decides_the_values_and_nothing_else(hubert, tmp_path):
    config = Audio(encoder=hubert)
    digest = audio_digest(config)
    for same in (
        {"batch_size": 3},
        {"revision": "main"},
        {"encoder": str(shutil.copytree(hubert, tmp_path / "moved"))},
    ):
        assert audio_digest(config.model_copy(update=same)) == digest
    others = ({"layers": (-1,)}, {"window_s": 20.0}, {"overlap_s": 1.0}, {"dtype": "bf16"}, {"encoder": "functionals"})
    assert len({digest, *(audio_digest(config.model_copy(update=other)) for other in others)}) == 1 + len(others)
    model = HubertModel.from_pretrained(hubert)
    torch.nn.init.zeros_(model.encoder.layer_norm.bias)
    model.save_pretrained(tmp_path / "moved")
    assert audio_digest(Audio(encoder=str(tmp_path / "moved"))) != digest


def test_a_model_that_is_nowhere_is_one_clear_message():
    with pytest.raises(ValueError, match=r"no model 'nobody/nothing'.*audio\.encoder=functionals"):
        audio_digest(Audio(encoder="nobody/nothing"))


def test_layers_that_the_model_has_not_are_named_with_the_range(hubert):
    for layers in ((9,), (-1, -7)):
        with pytest.raises(ValueError, match=r"layers .*-6 to 5"):
            audio.build(Audio(encoder=hubert, layers=layers))(batch_of(WAVES[0]))


def test_bf16_is_near_fp32_and_auto_means_fp32_here(hubert):
    exact, rough, auto = (
        audio.build(Audio(encoder=hubert, dtype=dtype))(batch_of(*WAVES[:4])) for dtype in ("fp32", "bf16", "auto")
    )
    assert torch.equal(auto, exact)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.05 * exact.norm()


AST = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
REFUSED = {
    "8000 Hz": (
        *FAMILIES["hubert-large"][:2],
        Wav2Vec2FeatureExtractor(1, 8000),
    ),
    "type audio-spectrogram-transformer": (ASTModel, ASTConfig(**AST), ASTFeatureExtractor()),
    "fewer frames": (SEWModel, SEWConfig(**SHAPE | {"conv_dim": (8,) * 13, "squeeze_factor": 2}), MASK),
}


@pytest.mark.parametrize("message", REFUSED)
def test_models_that_take_sound_in_another_way_are_refused(message, tmp_path):
    folder = saved(tmp_path, *REFUSED[message])
    with pytest.raises(ValueError, match=message):
        audio.build(Audio(encoder=str(folder), layers=(-1,)))(batch_of(WAVES[0]))


def test_damaged_weights_are_an_error_and_not_a_missing_feature(tmp_path):
    folder = saved(tmp_path, *FAMILIES["hubert-large"])
    model = HubertModel.from_pretrained(folder)
    torch.nn.init.constant_(model.encoder.layers[4].feed_forward.output_dense.bias, torch.inf)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"clip '0': .*audio\.encoder"):
        audio.build(Audio(encoder=str(folder), layers=(-1,)))(batch_of(WAVES[0]))
