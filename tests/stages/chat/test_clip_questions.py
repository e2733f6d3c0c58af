"""Clips sent to be labelled: what a message holds, what its answer names, and endpoints that fail or know no schema."""

import asyncio
import base64
import io
import json
import wave

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import SecretStr

from emo_ray import parquet
from emo_ray.stages.chat.answer_log import FINAL
from emo_ray.stages.chat.clip_questions import ClipQuestion, ClipQuestions, LabelRun, Place, evenly, label_in, smaller

KEY = "sk-never-to-be-written-anywhere"  # conftest's
LABELS = ("angry", "happy", "sad")


def jpeg(width, height):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def questions(words, **media):
    return {text: ClipQuestion(LABELS, "Which?", text, **media) for text in words}


def asked(settings, clips):
    """The answers of an endpoint by name, and what was used."""
    written, replies = [], []

    async def all_of_it():
        async for reply in LabelRun(settings, 0, SecretStr(KEY), written.append).ask_all(clips.items()):
            replies.append(reply)

    asyncio.run(all_of_it())
    assert {answer.digest for answer in written} == {r.answer.digest for r in replies if r.answer.attempts}
    assert len(written) == len(set(written))
    return {reply.answer.digest: reply.answer for reply in replies}, replies[-1]


def test_frames_and_sound_are_read_from_shards_as_they_are_asked_for(tmp_path, asking_of, chat):
    rows = [
        {"clip_id": f"c{i}", "frames": [jpeg(600, 500 + f) for f in range(8)], "audio": bytes(20 + i)} for i in range(3)
    ]
    for name in ("a", "b"):
        parquet.write(tmp_path / name, pa.Table.from_pylist(rows), codec="none")
    places = {
        "q0": Place(tmp_path / "a", "c0", "hello", True, True),
        "q1": Place(tmp_path / "a", "c1", None, False, True),
        "q2": Place(tmp_path / "b", "c2", None, True, False),
        "q3": Place(tmp_path / "nowhere", "c3", "words", False, False),
    }
    settings = asking_of(chat(), frames=2, frame_px=300, label_prompt="One of {labels}?", task="label")
    asked_for = ClipQuestions(places, settings, LABELS)
    assert set(asked_for.digests()) == set(places)
    asking = dict(asked_for.items(without={"q3"}))
    assert [(q.text, len(q.jpegs), q.samples) for q in asking.values()] == [
        ("hello", 2, bytes(20)),
        (None, 0, bytes(21)),
        (None, 2, None),
    ]
    assert {Image.open(io.BytesIO(data)).size for data in asking["q0"].jpegs} == {(300, 251), (300, 253)}
    assert {q.prompt for q in asking.values()} == {"One of angry, happy, sad?"}
    assert dict(asked_for.items(without={"q0", "q1", "q2"}))["q3"].jpegs == ()


def test_a_message_holds_words_pictures_and_sound_and_demands_a_label(chat, asking_of):
    server, samples = chat(), np.arange(1600, dtype="<i2").tobytes()
    clips = questions(["I am happy"], jpegs=(jpeg(40, 30), jpeg(20, 10)), samples=samples)
    answers, _ = asked(asking_of(server), clips)
    assert (answers["I am happy"].status, answers["I am happy"].reading) == ("ok", "happy")
    (body,) = server.bodies
    prompt, words, first, second, sound = body["messages"][0]["content"]
    assert prompt == {"type": "text", "text": "Which?"}
    assert words == {"type": "text", "text": 'What is said: "I am happy"'}
    for part, size in ((first, (40, 30)), (second, (20, 10))):
        start, _, data = part["image_url"]["url"].partition(",")
        assert (part["type"], start) == ("image_url", "data:image/jpeg;base64")
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == size
    assert (sound["type"], sound["input_audio"]["format"]) == ("input_audio", "wav")
    with wave.open(io.BytesIO(base64.b64decode(sound["input_audio"]["data"]))) as file:
        assert (file.getframerate(), file.readframes(9999)) == (16_000, samples)
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == list(LABELS)


def test_faults_are_outlived_and_no_clip_is_answered_twice(chat, asking_of):
    server = chat(fault_rate=0.3, delay_s=0.01)
    clips = questions([f"clip {i} sad" for i in range(60)])
    answers, last = asked(asking_of(server, timeout_s=1.0), clips)
    assert {(answer.status, answer.reading) for answer in answers.values()} == {("ok", "sad")}
    assert set(server.answered.values()) == {1}
    assert last.requests == sum(server.asked.values()) > 60


def test_an_endpoint_that_knows_no_schema_is_asked_without_and_its_words_are_read(chat, asking_of):
    server = chat(takes_schema=False)
    words = [f"clip {i} happy" for i in range(20)]
    answers, last = asked(asking_of(server, concurrency=2), questions(words))
    assert {(answer.status, answer.reading) for answer in answers.values()} == {("ok", "happy")}
    with_schema = sum("response_format" in body for body in server.bodies)
    assert with_schema <= 4, "it is tried by the first questions alone"
    assert last.requests == 20 + with_schema


def test_a_refusal_of_one_clip_does_not_take_the_schema_from_the_others(chat, asking_of):
    error = (400, {}, json.dumps({"error": {"message": f"too large, {KEY}", "code": None}}))
    server = chat(script=[error, error])
    answers, _ = asked(asking_of(server, concurrency=1), questions(["one sad", "two sad"]))
    assert answers["one sad"].status.startswith("error: ")
    assert KEY not in answers["one sad"].status
    assert answers["two sad"].reading == "sad"
    assert ["response_format" in body for body in server.bodies] == [True, False, True]


def test_answers_that_name_no_label_or_several_are_final_and_kept(chat, asking_of):
    server = chat(takes_schema=False)
    answers, _ = asked(asking_of(server), questions(["what now", "happy or sad", "refuse happy", "empty sad"]))
    assert {name: answer.status for name, answer in answers.items()} == {
        **{"what now": "unclear", "happy or sad": "unclear"},
        **{"refuse happy": "refused", "empty sad": "empty"},
    }
    assert all(answer.status in FINAL for answer in answers.values())
    assert answers["what now"].reading == "They mean: what now"


def test_budgets_count_pictures_and_sound_before_they_are_sent(chat, asking_of):
    server = chat()
    clips = questions([f"clip {i} sad" for i in range(9)], jpegs=(jpeg(224, 224),) * 4)
    answers, last = asked(asking_of(server, max_requests=4), clips)
    assert last.requests == sum(server.asked.values()) == 4
    few = asking_of(chat(), max_tokens=4 * 256)  # 4 pictures of 224 pixels are 256 patches of 14 pixels each
    answers, last = asked(few, clips)
    assert (last.requests, {answer.status for answer in answers.values()}) == (0, {"budget"})


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ('{"label": "sad"}', "sad"),
        ('{"label": " SAD "}', "sad"),
        ('{"label": "glad"}', None),
        ('{"label": ["sad"]}', "sad"),
        ('```json\n{"label": "happy"}\n```', "happy"),
        ("Happy.", "happy"),
        ("The person is angry, very angry!", "angry"),
        ("unhappy", None),
        ("sad or happy", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_the_one_label_that_an_answer_names(answer, label):
    assert label_in(answer, LABELS) == label


def test_labels_in_other_scripts_and_within_longer_ones():
    assert label_in("他很高兴。", ("高兴", "生气")) == "高兴"
    assert label_in("I would say very sad", ("sad", "very sad")) == "very sad"
    assert label_in("(a) c++", ("c++", "c")) == "c++"


def test_frames_are_few_evenly_spread_and_small():
    assert evenly(range(8), 4) == [1, 3, 5, 7]
    assert evenly(range(3), 8) == [0, 1, 2]
    assert evenly([], 4) == []
    small, large = jpeg(100, 60), jpeg(900, 600)
    assert smaller(small, 100) is small
    assert Image.open(io.BytesIO(smaller(large, 300))).size == (300, 200)
