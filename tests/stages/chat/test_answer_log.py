"""Answers on disk: whole, under keys of everything that decides them, written by one run at a time."""

import fcntl
import json

import pytest

from emo_ray.config.endpoint_settings import Annotate
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import ChatAnswer


@pytest.fixture
def folder(tmp_path):
    return answer_log.open_folder(tmp_path, Annotate())[0]


def test_final_answers_are_read_and_others_are_asked_again(folder):
    kinds = ("ok", "cut", "refused", "empty", "error: 500", "budget")
    write = answer_log.writer(folder)
    for status in kinds:
        write(ChatAnswer(f"of {status}", status, "words \u6c34", 3, 4, 5))
    answers = answer_log.read(folder, ChatAnswer)
    assert list(answers) == [f"of {status}" for status in ("ok", "cut", "refused", "empty")]
    assert answers["of ok"] == ChatAnswer("of ok", "ok", "words \u6c34", 3, 4, 5)


def test_torn_lines_are_no_answers_and_spoil_no_others(folder):
    answer_log.writer(folder)(ChatAnswer("a", "ok", "first"))
    (whole,) = folder.glob("answers-*.jsonl")
    line = whole.read_bytes()
    for torn in (line[:-1], line[:20], b"\0" * 30, b'{"digest": "b"', b"[1]", b'{"other": 1}', b"\xff\xfe"):
        whole.write_bytes(line + torn)
        assert answer_log.read(folder, ChatAnswer) == {"a": ChatAnswer("a", "ok", "first")}
    whole.write_bytes(b"\0" * 30 + b"\n" + line)
    assert answer_log.read(folder, ChatAnswer) == {"a": ChatAnswer("a", "ok", "first")}


def test_an_answer_never_changes(folder):
    for reading in ("first", "second"):
        answer_log.writer(folder)(ChatAnswer("a", "ok", reading))
    assert answer_log.read(folder, ChatAnswer)["a"].reading == "first"


def test_a_folder_is_for_what_decides_an_answer_and_has_a_name_of_its_own(tmp_path):
    base = answer_log.open_folder(tmp_path, Annotate())
    assert answer_log.open_folder(tmp_path, Annotate()) == base
    for same in ({"url": "http://elsewhere/v1"}, {"concurrency": 3}, {"timeout_s": 1.0}, {"max_requests": 5}):
        assert answer_log.open_folder(tmp_path, Annotate(**same)) == base
    others = (
        *({"model": "other"}, {"language": "Chinese"}, {"max_answer_tokens": 7}),
        *({"prompt": "{transcript}?"}, {"request": {"top_p": 0.5}}),
    )
    folders = {answer_log.open_folder(tmp_path, Annotate(**other))[0] for other in others}
    assert len(folders | {base[0]}) == 6
    assert answer_log.open_folder(tmp_path / "anew", Annotate())[1] != base[1]
    assert json.loads((base[0] / "meta.json").read_text())["settings"]["model"] == Annotate().model


def test_prompts_are_filled_in_one_go():
    asked = Annotate(prompt="{transcript} / {language} / {x y}", language="French")
    assert answer_log.filled(asked, "a {language} of {transcript}") == "a {language} of {transcript} / French / {x y}"
    assert answer_log.digest(asked, "a") != answer_log.digest(asked, "b")


def test_a_second_run_waits_and_then_says_who_is_there(folder, monkeypatch):
    monkeypatch.setattr(answer_log, "_LOCK_WAIT_S", 0.2)
    with answer_log.locked(folder):
        pass
    with (folder / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run"), answer_log.locked(folder):
            pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:8000/v1"}, "127.0.0.1:8000"),
        ({"url": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"url": "https://me:secret@host/v1"}, r"annotate\.url.*OPENAI_API_KEY"),
        ({"url": "https://host/v1?api-key=secret"}, r"annotate\.url.*OPENAI_API_KEY"),
        ({"prompt": "How do they feel?"}, r"\{transcript\}"),
        ({"prompt": "{transcript} {transcript}"}, r"\{transcript\}"),
        ({"prompt": "{transcript} {reading}"}, r"\{reading\}.*\{language\}"),
        ({"prompt": {"transcript": None}}, r"annotate\.prompt="),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Annotate(**changes)
    assert "secret" not in str(error.value).partition("[type=")[0]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_tokens": 1e30},
        {"answer_tokens": -1},
        {"attempts": 2**70},
        {"attempts": True},
        {"reading": 3},
        {"status": ["ok"]},
        {"digest": None},
    ],
)
def test_lines_with_other_values_are_left_out(folder, change):
    answer_log.writer(folder)(ChatAnswer("a", "ok", "first"))
    (whole,) = folder.glob("answers-*.jsonl")
    line = json.loads(whole.read_text())
    whole.write_text(json.dumps(line | change) + "\n" + "[" * 100_000 + "\n")
    assert answer_log.read(folder, ChatAnswer) == {}
