"""Shard rows to transcripts: who is heard, in which batches, and what a row says of it."""

import numpy as np
import pyarrow as pa
import pytest
from recording_files import voices

from emo_ray.config import Config, override
from emo_ray.data.media import RATE_HZ
from emo_ray.data.transcripts import NOT_ASKED, SCHEMA, SPOKEN, Transcription
from emo_ray.inference.encoders import recogniser
from emo_ray.inference.encoding import encode_rows, shard_columns

URL = "http://127.0.0.1:1/v1"


@pytest.fixture(scope="module")
def voice_S():
    """Three seconds of a synthetic voice, which silero-vad hears as speech."""
    return voices(1)[0][RATE_HZ:]


@pytest.fixture
def encoder(tmp_path):
    """A function to a recogniser's spec."""
    (tmp_path / "config.json").write_text("{}")

    def make(rows="missing", **changes):
        settings = {"model": str(tmp_path), "batch_size": 2, **changes}
        return recogniser(override(Config(), {f"transcribe.{key}": value for key, value in settings.items()}), rows)

    return make


def shard(*clips):
    """Shard rows of (clip_id, sound or None, text or None, language)."""
    rows = [
        {
            "clip_id": clip_id,
            "audio": None if sound_S is None else sound_S.astype("<i2").tobytes(),
            "audio_samples": None if sound_S is None else len(sound_S),
            "language": language,
            "audio_status": "missing" if sound_S is None else "ok: short",
            "text_status": "missing" if text is None else "ok",
            "video_status": "missing",
        }
        for clip_id, sound_S, text, language in clips
    ]
    return pa.Table.from_pylist(rows)


class Recogniser:
    """Says how long each sound is, and keeps what it was asked."""

    def __init__(self, may_pad=True):
        self.batches, self.may_pad = [], may_pad

    def __call__(self, waves, language):
        self.batches.append((language, [len(wave_S) for wave_S in waves]))
        assert all(wave_S.dtype == np.float32 and np.abs(wave_S).max() <= 1 for wave_S in waves)
        return [Transcription(f"{len(wave_S)} samples", language, -0.1, 0.1) for wave_S in waves]


def statuses(table):
    return dict(zip(table["clip_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def test_only_sound_without_text_in_which_somebody_speaks_is_written_down(encoder, voice_S):
    rng = np.random.default_rng(0)
    noise_S = (500 * rng.normal(size=RATE_HZ)).astype(np.int16)
    clips = (
        *(("voice", voice_S, None, None), ("given", voice_S, "words", None), ("mute", None, None, None)),
        *(("silence", np.zeros(RATE_HZ, np.int16), None, None), ("noise", noise_S, None, None)),
    )
    module = Recogniser()
    table = encode_rows(encoder(), module, shard(*clips), "cpu")
    assert table.schema == SCHEMA
    assert statuses(table) == {
        **{"voice": "ok", "given": NOT_ASKED, "mute": NOT_ASKED},
        **{"silence": "no speech", "noise": "no speech"},
    }
    assert module.batches == [(None, [len(voice_S)])]
    second = encode_rows(encoder("given"), module, shard(*clips), "cpu")
    assert {name for name, status in statuses(second).items() if status != NOT_ASKED} == {"given"}


def test_for_an_endpoint_rows_say_who_speaks(encoder, voice_S):
    spec = encoder(url=URL)
    assert spec.built("cpu") is None
    table = encode_rows(spec, None, shard(("a", voice_S, None, None), ("b", 0 * voice_S, None, None)), "cpu")
    assert statuses(table) == {"a": SPOKEN, "b": "no speech"}
    assert table["text"].null_count == 2


def test_sounds_of_one_language_and_of_like_lengths_are_heard_together(encoder, voice_S):
    lengths = {"a": 30_000, "b": 20_000, "c": 31_000, "d": 21_000, "e": 22_000}
    languages = {"a": None, "b": "zh", "c": "en", "d": None, "e": None}
    module = Recogniser()
    clips = [(name, voice_S[:length], None, languages[name]) for name, length in lengths.items()]
    table = encode_rows(encoder(language="en"), module, shard(*clips), "cpu")
    assert module.batches == [("en", [21_000, 22_000]), ("en", [30_000, 31_000]), ("zh", [20_000])]
    assert table["clip_id"].to_pylist() == list(lengths)
    assert table["text"].to_pylist() == [f"{length} samples" for length in lengths.values()]
    assert table["language"].to_pylist() == ["en", "zh", "en", "en", "en"]


def test_sounds_of_different_lengths_are_apart_where_padding_would_be_heard(encoder, voice_S):
    module = Recogniser(may_pad=False)
    clips = [(name, voice_S[:length], None, None) for name, length in zip("abc", (30_000, 20_000, 30_000), strict=True)]
    encode_rows(encoder(), module, shard(*clips), "cpu")
    assert module.batches == [(None, [20_000]), (None, [30_000, 30_000])]


def test_long_sound_is_heard_in_pieces_that_hold_all_speech(encoder, voice_S):
    sound_S, _ = voices(12)  # 48 s
    module = Recogniser()
    table = encode_rows(encoder(), module, shard(("long", sound_S, None, "en")), "cpu")
    pieces = [length for _, lengths in module.batches for length in lengths]
    assert len(pieces) > 1
    assert max(pieces) <= 30 * RATE_HZ
    assert sum(pieces) > 40 * RATE_HZ
    assert table["text"][0].as_py() == " ".join(f"{length} samples" for length in sorted(pieces, reverse=True))


def test_which_rows_and_columns_it_needs(encoder, voice_S):
    table = shard(("a", None, None, None), ("b", voice_S, "words", None))
    assert not encoder().wanted(table)
    assert encoder("given").wanted(table)
    assert {"audio", "audio_samples", "language"} <= set(shard_columns(encoder().reads))


def test_what_decides_a_transcript_is_in_the_digest(encoder, tmp_path):
    specs = [
        *(encoder(), encoder("given"), encoder(language="zh"), encoder(dtype="fp32"), encoder(url=URL)),
        *(encoder(url=URL, language="zh"),),
    ]
    (tmp_path / "config.json").write_text("{} ")
    digests = [spec.digest for spec in (*specs, encoder())]
    assert len(set(digests)) == 6, "an endpoint's rows only say who speaks"
    assert encoder(batch_size=5).digest == encoder().digest
