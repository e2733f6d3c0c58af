"""Asking: each answer once with its status, whatever the endpoint does, and never more than the budgets."""

import asyncio
import gzip
import json
import resource
import time
from email.utils import formatdate

import pytest
from pydantic import SecretStr

from emo_ray.stages.chat import client
from emo_ray.stages.chat.answer_log import ChatAnswer
from emo_ray.stages.chat.http_bounds import MOST_BYTES

KEY = "sk-never-to-be-written-anywhere"  # conftest's
TEMPLATE_TOKENS = 256  # of a chat template: a request reserves them beside its prompt's bytes and its longest answer
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
ERROR = json.dumps({"error": {"message": f"no, {KEY}", "code": "CODE"}})


def asked(config, transcripts, key=KEY):
    """Ask an endpoint about transcripts; the answers by transcript, and the last reply, which counts requests."""
    written, replies = [], []

    async def all_of_it():
        run = client.ChatRun(config, 0, SecretStr(key) if key else None, written.append)
        async for reply in run.ask_all((text, f"In English: {text}") for text in transcripts):
            replies.append(reply)

    asyncio.run(all_of_it())
    assert {reply.answer for reply in replies if reply.answer.attempts} == set(written)
    assert len(written) == len(set(written))
    unasked = {text: ChatAnswer(text, "budget") for text in transcripts}
    return unasked | {reply.answer.digest: reply.answer for reply in replies}, replies[-1]


def test_what_an_answer_says_is_its_status(chat, asking_of):
    kinds = {"say": "ok", "refuse": "refused", "filter": "refused", "empty": "empty", "long": "cut", "echo": "ok"}
    server = chat()
    answers, last = asked(asking_of(server), kinds)
    assert {kind: answer.status for kind, answer in answers.items()} == kinds
    assert {kind for kind, answer in answers.items() if answer.reading is None} == {"refuse", "filter", "empty"}
    assert (answers["say"].reading, answers["long"].reading) == ("They mean: say", "They mean: long")
    assert answers["echo"].reading == "You are Bearer ***, ?."
    assert {(a.prompt_tokens, a.answer_tokens, a.attempts) for a in answers.values()} == {(10, 5, 1)}
    assert (last.requests, last.tokens) == (6, 90)
    assert server.bodies[0] == {
        **{"model": "m", "temperature": 0.0, "max_tokens": 20},
        "messages": [{"role": "user", "content": f"In English: {next(iter(server.asked))}"}],
    }
    assert server.keys == {f"Bearer {KEY}"}


def test_a_request_has_other_fields_where_an_endpoint_wants_them(chat, asking_of):
    server = chat()
    request = {"max_tokens": None, "max_completion_tokens": 9, "temperature": None}
    assert asked(asking_of(server, request=request), ["say"])[0]["say"].status == "ok"
    assert set(server.bodies[0]) == {"model", "messages", "max_completion_tokens"}


def test_a_local_server_needs_no_key_and_the_environments_is_not_looked_for(chat, asking_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = chat()
    answers, _ = asked(asking_of(server), ["say"], key=None)
    assert answers["say"].status == "ok"
    assert KEY not in str(server.keys)


def test_faults_are_outlived_and_nothing_is_answered_twice(chat, asking_of):
    transcripts = [f"say {i}" for i in range(120)]
    server = chat(fault_rate=0.3, delay_s=0.02)
    answers, last = asked(asking_of(server, timeout_s=1.0), transcripts)
    assert {answer.status for answer in answers.values()} == {"ok"}
    assert {text: answer.attempts for text, answer in answers.items()} == server.asked
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 120
    assert last.requests == sum(server.asked.values()) > 120
    assert len(server.faults) == 8, "every kind of fault was seen"
    assert 8 < server.busiest <= 16


def test_who_is_never_answered_has_an_error_with_its_reason_and_without_the_key(chat, asking_of):
    script = [(500, {}, ERROR)] * 3 + [(400, {}, ERROR), (400, {}, ERROR.replace("CODE", "content_filter"))]
    server = chat(script=script)
    answers, last = asked(asking_of(server, max_attempts=3, concurrency=1), ["a", "b", "c", "d"])
    assert [answers[name].status.split(" -")[0] for name in "abcd"] == [
        *("error: Error code: 500", "error: Error code: 400", "refused", "ok")
    ]
    assert [answers[name].attempts for name in "abcd"] == [3, 1, 1, 1]
    assert "no, ***" in answers["a"].status
    assert KEY not in str(answers)
    assert last.requests == 6


@pytest.mark.parametrize("value", ["1", "date"])
def test_nobody_asks_while_the_endpoint_wants_to_be_left_alone(chat, asking_of, value):
    after = formatdate(time.time() + 2, usegmt=True) if value == "date" else value  # a date has whole seconds
    server = chat(script=[(429, {"Retry-After": after}, ERROR)])
    answers, _ = asked(asking_of(server, concurrency=2), [f"say {i}" for i in range(8)])
    assert {answer.status for answer in answers.values()} == {"ok"}
    waits_s = [later - earlier for earlier, later in zip(server.times_s, server.times_s[1:], strict=False)]
    assert max(waits_s) > 0.9
    late = sum(time_s - server.times_s[0] > 0.9 for time_s in server.times_s)
    assert late >= 6, "what was under way went on, and nothing else"


def test_an_endpoint_that_wants_longer_than_a_run_waits_ends_it(chat, asking_of):
    server = chat(script=[(429, {"Retry-After": "3600"}, ERROR)])
    answers, last = asked(asking_of(server, concurrency=1), ["a", "b", "c"])
    assert answers["a"].status.startswith("error: Error code: 429")
    assert [answers[name].status for name in "bc"] == ["budget", "budget"]
    assert last.requests == sum(server.asked.values()) == 1


@pytest.mark.parametrize("most", [1, 7, 30])
def test_requests_stop_at_the_budget(chat, asking_of, most):
    server = chat(fault_rate=0.3)
    answers, last = asked(asking_of(server, max_requests=most, timeout_s=1.0), [f"say {i}" for i in range(40)])
    assert last.requests == sum(server.asked.values()) == most
    assert {answer.status.partition(":")[0] for answer in answers.values()} <= {"ok", "error", "budget"}
    assert sum(answer.attempts for answer in answers.values()) == most
    assert sum(answer.status == "ok" for answer in answers.values()) == sum(server.answered.values())


def test_tokens_stop_short_of_the_budget_by_less_than_a_request_may_take(chat, asking_of):
    held = len("In English: say 10") + TEMPLATE_TOKENS + 20
    server = chat()
    answers, last = asked(asking_of(server, max_tokens=1000), [f"say {i}" for i in range(10, 99)])
    answered = (1000 - held) // 15 + 1  # 15 tokens each, while there is room for the longest request
    assert (last.tokens, last.requests) == (15 * answered, answered)
    assert sum(answer.status == "budget" for answer in answers.values()) == 89 - answered
    assert sum(server.answered.values()) == answered


def test_an_answer_that_does_not_say_what_it_took_counts_for_the_most(chat, asking_of):
    text = "uncounted 1"
    _, last = asked(asking_of(chat()), [text])
    assert last.tokens == len(f"In English: {text}") + TEMPLATE_TOKENS + 20


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [(401, "invalid_api_key", "401"), (404, "model", "404"), (429, "insufficient_quota", "429")],
)
def test_what_is_wrong_for_all_is_said_at_once(chat, asking_of, status, code, why):
    server = chat(script=[(status, {}, ERROR.replace("CODE", code))] * 50)
    with pytest.raises(ValueError, match=rf"{why}.*model m .*OPENAI_API_KEY") as error:
        asked(asking_of(server), [f"say {i}" for i in range(50)])
    assert KEY not in str(error.value)
    assert sum(server.asked.values()) <= 16


def test_a_server_that_is_not_there_is_said(chat, asking_of):
    server = chat()
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"127\.0\.0\.1.*annotate\.url"):
        asked(asking_of(server, max_attempts=2), [f"say {i}" for i in range(50)])


def chat_completion(**changes):
    """The JSON of an answer "yes" with other values of its parts."""
    answer = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": dict(USAGE)}
    return json.dumps(answer | changes)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(chat, asking_of, status):
    other = chat()
    server = chat(script=[(status, {"Location": f"{other.url}/chat/completions"}, "")] * 50)
    with pytest.raises(ValueError, match=rf"{server.server_port}/v1: found a redirect to .*{other.server_port}"):
        asked(asking_of(server), [f"say {i}" for i in range(50)])
    assert not other.asked
    assert sum(server.asked.values()) <= 16


def test_an_answer_is_bounded_in_bytes(chat, asking_of):
    sent_bytes = 0

    def endless():
        nonlocal sent_bytes
        for _ in range(512):  # 32 MB at most
            sent_bytes += 2**16
            yield b" " * 2**16

    server = chat(script=[(200, {}, endless())])
    with pytest.raises(ValueError, match=f"more than {MOST_BYTES} bytes"):
        asked(asking_of(server, concurrency=1), ["a", "b"])
    assert sent_bytes < 4 * MOST_BYTES
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize("status", [200, 400])
def test_a_little_body_does_not_become_a_large_one(chat, asking_of, status):
    bomb = gzip.compress(b" " * 2**25)
    server = chat(script=[(status, {"Content-Encoding": "gzip"}, bomb)])
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with pytest.raises(ValueError, match="found a body in gzip"):
        asked(asking_of(server, concurrency=1), ["a"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes < 2**24


def test_an_answer_is_bounded_in_time(chat, asking_of):
    def dripping():
        for _ in range(60):
            time.sleep(0.1)
            yield b" "

    server = chat(script=[(200, {}, dripping())])
    begun_s = time.monotonic()
    with pytest.raises(ValueError, match=r"no answer in 0\.5 s"):
        asked(asking_of(server, concurrency=1, timeout_s=0.5, max_attempts=1), ["a"])
    assert time.monotonic() - begun_s < 4


@pytest.mark.parametrize("value", [1e30, 1e400, -5, 2**70, "many", None, [1], {"a": 1}, 3.5])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_numbers_that_are_no_counts_are_not_taken(chat, asking_of, name, value):
    server = chat(script=[(200, {}, chat_completion(usage=USAGE | {name: value}))])
    answers, last = asked(asking_of(server), ["a"])
    most = len("In English: a") + TEMPLATE_TOKENS + 20
    assert answers["a"] == ChatAnswer("a", "ok", "yes", most, 0, 1)
    assert last.tokens == most


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"choices": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"choices": ' + '[{"message": ' * 300 + "1" + "}]" * 300 + "}",
        chat_completion(choices=[{"message": {"content": ["yes"]}}]),
        chat_completion(choices=[{"message": {"content": "y" * 100_000}}]),
        chat_completion(choices={"message": 3}),
        chat_completion(choices="yes"),
        "1e999",
        "[]",
        "null",
    ],
    ids=range(10),
)
def test_bodies_of_other_forms_are_no_completions(chat, asking_of, body):
    server = chat(script=[(200, {}, body)])
    answers, _ = asked(asking_of(server, max_attempts=1), ["a"])
    assert answers["a"].status.startswith("error: no chat completion")
