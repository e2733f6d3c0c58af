"""Sound encoders: neighbours never matter, and pooling is what it says."""

import math

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from emo_ray.data.batch import Batch
from emo_ray.models import audio
from emo_ray.settings import Audio

RATE = 16_000


def batch_of(*waves):
    lengths = torch.tensor([len(w) for w in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    names = tuple(map(str, range(len(waves))))
    return Batch(names, torch.ones(len(waves), 3, dtype=torch.bool), audio_BS=padded, audio_lengths_B=lengths)


def tone(hz, seconds, level=0.3):
    """A harmonic tone, as voiced speech is."""
    time = torch.arange(int(seconds * RATE)) / RATE
    return level * sum(torch.sin(2 * math.pi * hz * k * time) / k for k in range(1, 6)) / 2


def noise(seconds, seed=0):
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


WAVES = [noise(0.7), tone(120, 2.0), tone(240, 1.3), noise(3.1, 1), torch.zeros(RATE), tone(180, 0.9)]


@pytest.fixture(scope="module", params=["group", "layer"])
def hubert(request, tmp_path_factory):
    """A tiny HuBERT folder, of the base kind (group norm) and the large kind (layer norm)."""
    folder = tmp_path_factory.mktemp(f"hubert-{request.param}")
    torch.manual_seed(0)
    large = request.param == "layer"
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=5, num_attention_heads=2, intermediate_size=24, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm=request.param,
        do_stable_layer_norm=large, conv_bias=large,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=large, return_attention_mask=large).save_pretrained(folder)
    return folder


def test_functionals_do_not_depend_on_neighbours():
    encode = audio.build(Audio())
    alone = torch.cat([encode(batch_of(wave)) for wave in WAVES])
    assert torch.equal(encode(batch_of(*WAVES)), alone)
    assert alone.shape == (len(WAVES), encode.dim)


@pytest.mark.parametrize("samples", [1, 100, 399, 400, 8000])
def test_functionals_are_finite_for_silence_and_for_very_short_sound(samples):
    encode = audio.build(Audio())
    for wave in (torch.zeros(samples), noise(1)[:samples], torch.ones(samples)):
        assert encode(batch_of(wave)).isfinite().all()


def test_functionals_hear_pitch_and_loudness():
    encode = audio.build(Audio())
    low, high, quiet = encode(batch_of(tone(110, 2), tone(220, 2), tone(110, 2, level=0.03)))
    changed = (low - high).abs()
    semitone_median, energy_mean = 80 + 6 + 3, 80
    assert abs((high - low)[semitone_median] - 12) < 0.5  # an octave
    assert abs((low - quiet)[energy_mean] - 20) < 0.5  # a tenth of the amplitude
    assert changed.isfinite().all()


def test_speech_model_does_not_depend_on_neighbours(hubert):
    encode = audio.build(Audio(encoder=str(hubert)))
    alone = torch.cat([encode(batch_of(wave)) for wave in WAVES])
    torch.testing.assert_close(encode(batch_of(*WAVES)), alone, atol=1e-5, rtol=1e-4)
    assert alone.shape == (len(WAVES), encode.dim)


def test_sound_shorter_than_the_receptive_field_does_not_depend_on_neighbours(hubert):
    encode, click = audio.build(Audio(encoder=str(hubert))), noise(1)[:300]
    torch.testing.assert_close(encode(batch_of(click, WAVES[1]))[:1], encode(batch_of(click)), atol=1e-5, rtol=1e-4)


def test_speech_model_is_the_mean_over_time_of_the_mean_of_layers(hubert):
    encode, wave = audio.build(Audio(encoder=str(hubert), layers=(-1, -2))), WAVES[1]
    extract = Wav2Vec2FeatureExtractor.from_pretrained(hubert)
    model = HubertModel.from_pretrained(hubert).eval()
    inputs = extract(wave.numpy(), sampling_rate=RATE, return_tensors="pt").input_values
    states = model(inputs, output_hidden_states=True).hidden_states
    reference = ((states[-1] + states[-2]) / 2).mean(dim=1)
    torch.testing.assert_close(encode(batch_of(wave)), reference, atol=1e-5, rtol=1e-4)


def test_digest_follows_weights_and_layers_not_batch_size(hubert, tmp_path):
    own = Audio(encoder=str(hubert))
    same = audio.digest(own.model_copy(update={"batch_size": 3}))
    assert audio.digest(own) == same
    assert audio.digest(own.model_copy(update={"layers": (-1,)})) != same
    model = HubertModel.from_pretrained(hubert)
    torch.nn.init.zeros_(model.encoder.layer_norm.bias)
    torch.nn.init.ones_(model.masked_spec_embed)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor.from_pretrained(hubert).save_pretrained(tmp_path)
    assert audio.digest(Audio(encoder=str(tmp_path))) != same


def test_a_model_that_is_nowhere_is_one_clear_message():
    with pytest.raises(ValueError, match=r"no model 'nobody/nothing'.*audio\.encoder=functionals"):
        audio.digest(Audio(encoder="nobody/nothing"))


def test_layers_that_the_model_has_not_are_named(hubert):
    with pytest.raises(ValueError, match="9"):
        audio.build(Audio(encoder=str(hubert), layers=(9,)))(batch_of(WAVES[0]))
