"""Sending sounds: each transcribed once, whatever the endpoint does, and what its answers may hold."""

import asyncio
import io
import json
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.stages.chat.answer_log import ChatAnswer, SoundAnswer
from emo_ray.stages.chat.http_bounds import MOST_BYTES
from emo_ray.stages.chat.sounds import Question, Sound, Sounds, SpeechRun

KEY = "sk-never-to-be-written-anywhere"  # conftest's
QUICK = {"backoff_s": 0.01, "timeout_s": 2.0, "max_attempts": 12, "concurrency": 8}


def sounds(count, language="en"):
    """Sounds of different lengths by name."""
    return {f"sound {i}": Sound(np.arange(160 + i, dtype="<i2").tobytes(), language) for i in range(count)}


def asked(server, questions, **changes):
    """The answers of an endpoint by name of the sound."""
    config, written, replies = Transcribe(url=server.url, model="m", **QUICK | changes), [], []

    async def all_of_it():
        run = SpeechRun(config, 0, SecretStr(KEY), written.append)
        async for reply in run.ask_all(questions.items()):
            replies.append(reply.answer)

    asyncio.run(all_of_it())
    assert len(written) == len(set(written))
    return {name: ChatAnswer(name, "budget") for name in questions} | {answer.digest: answer for answer in replies}


def test_an_answer_holds_words_language_and_probabilities(chat):
    server = chat()
    answers = asked(server, sounds(2))
    assert answers["sound 1"] == SoundAnswer(
        "sound 1", "ok", "161 samples at 16000 Hz", 0, 0, 1, "english", pytest.approx(-0.3), 0.1
    )
    (form, _) = server.bodies
    expected = {"model": "m", "response_format": "verbose_json", "temperature": "0.0", "language": "en"}
    assert {name: value for name, value in form.items() if name != "file"} == expected
    with wave.open(io.BytesIO(form["file"])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        assert file.readframes(file.getnframes()) == sounds(2)[f"sound {file.getnframes() - 160}"].samples
    assert server.keys == {f"Bearer {KEY}"}


def test_a_language_that_nobody_knows_and_fields_that_an_endpoint_does_not_take_are_left_out(chat):
    server = chat()
    asked(server, sounds(1, language=None), request={"response_format": "json", "temperature": None, "prompt": "names"})
    assert set(server.bodies[0]) == {"model", "file", "response_format", "prompt"}
    assert server.bodies[0]["response_format"] == "json"


def test_faults_are_outlived_and_no_sound_is_answered_twice(chat):
    server = chat(fault_rate=0.3, delay_s=0.01)
    answers = asked(server, sounds(60))
    assert {answer.status for answer in answers.values()} == {"ok"}
    assert sum(answer.attempts for answer in answers.values()) == sum(server.asked.values()) > 60
    assert set(server.answered.values()) == {1}
    assert {"429", "500", "cut off", "silence", "reset"} <= set(server.faults)


def test_requests_stop_at_the_budget(chat):
    server = chat()
    answers = asked(server, sounds(9), max_requests=4)
    assert sum(server.asked.values()) == 4
    assert sum(answer.status == "budget" for answer in answers.values()) == 5


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(chat, status):
    other = chat()
    server = chat(script=[(status, {"Location": f"{other.url}/audio/transcriptions"}, "")] * 20)
    with pytest.raises(ValueError, match=rf"{server.server_port}/v1: found a redirect to .*transcribe\.url"):
        asked(server, sounds(20))
    assert not other.asked


def test_an_answer_is_bounded_in_bytes(chat):
    server = chat(script=[(200, {}, (b" " * 2**16 for _ in range(512)))])
    with pytest.raises(ValueError, match=f"more than {MOST_BYTES} bytes"):
        asked(server, sounds(2), concurrency=1)


@pytest.mark.parametrize(("status", "why"), [(401, "401"), (404, "404")])
def test_what_is_wrong_for_all_is_said_at_once(chat, status, why):
    server = chat(script=[(status, {}, json.dumps({"error": {"message": f"no {KEY}"}}))] * 30)
    with pytest.raises(ValueError, match=rf"{why}.*model m .*OPENAI_API_KEY") as error:
        asked(server, sounds(30))
    assert KEY not in str(error.value)
    assert sum(server.asked.values()) <= 8


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "null", "1e999", '"words"', "{}", '{"text": 3}', '{"text": ["words"]}', "[" * 100_000, "words"),
        json.dumps({"text": "y" * 100_000}),
    ],
    ids=range(10),
)
def test_bodies_of_other_forms_are_no_transcriptions(chat, body):
    answers = asked(chat(script=[(200, {}, body)]), sounds(1), max_attempts=1)
    assert answers["sound 0"].status.startswith("error: no transcription")


@pytest.mark.parametrize(
    "segments",
    [3, {}, "many", [None], [3], [{}], [{"avg_logprob": "low"}], [{"avg_logprob": 1e400, "no_speech_prob": None}]],
    ids=range(8),
)
def test_numbers_that_are_none_are_not_taken(chat, segments):
    body = json.dumps({"text": f"words for {KEY}", "segments": segments, "language": 5})
    answers = asked(chat(script=[(200, {}, body)]), sounds(1))
    assert answers["sound 0"] == SoundAnswer("sound 0", "ok", "words for ***", attempts=1)


def test_silence_that_an_endpoint_hears_is_an_answer(chat):
    answers = asked(chat(script=[(200, {}, '{"text": " "}')]), sounds(1))
    assert (answers["sound 0"].status, answers["sound 0"].final) == ("empty", True)


def test_sounds_are_read_from_shards_part_by_part(tmp_path):
    for part in ("one", "two"):
        rows = [{"clip_id": f"{part} {i}", "audio": bytes([i, 0])} for i in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / part)
    names = ["two 0", "one 2", "one 0"]
    questions = Sounds({f"of {name}": Question(tmp_path / name[:3], name, "en") for name in names})
    assert set(questions.digests()) == {f"of {name}" for name in names}
    assert dict(questions.items(without=["of one 0"])) == {
        "of one 2": Sound(bytes([2, 0]), "en"),
        "of two 0": Sound(bytes([0, 0]), "en"),
    }
    (tmp_path / "two").unlink()
    digest, _ = next(iter(questions.items(without=[])))
    assert digest in ("of one 0", "of one 2"), "no part is read before it is needed"
