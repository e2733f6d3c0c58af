"""Answers on disk: one folder per model, prompt, language and length of answer, shared by all corpora.

Every run appends to a file of its own, one line an answer, and each line is safe on disk before it counts. A kill may
tear the last line, which is left out when the files are read. Final answers never change.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emo_ray import store
from emo_ray.config.job_settings import Annotate
from emo_ray.locks import lock

VERSION = 1
TEMPERATURE = 0.0  # the same words, the same answer, as far as the endpoint can
FINAL = ("ok", "cut", "refused", "empty")
UNASKED = "budget"
_MOST_COUNT = 10**9
_LOCK_WAIT_S = 30.0  # the time that the processes of a killed run take to be gone
_PLACE = re.compile(r"{(transcript|language)}")


@dataclass(frozen=True)
class ChatAnswer:
    """The outcome for one transcript: a final status, `error: why`, or `budget`, and the reading where there is one.

    The status `cut` says that the answer ended at `annotate.max_answer_tokens`; its text is used as it is.
    """

    digest: str  # of transcript, prompt and model
    status: str
    reading: str | None = None
    prompt_tokens: int = 0  # of all requests of the run for this transcript
    answer_tokens: int = 0
    attempts: int = 0

    @property
    def final(self) -> bool:
        """Whether the transcript is never asked about again."""
        return self.status in FINAL


def settings(config: Annotate) -> dict:
    """The settings that decide an answer beside the transcript. The URL does not: a model may move."""
    return {**config.deciding("readings"), "temperature": TEMPERATURE, "version": VERSION}


def digest(config: Annotate, transcript: str) -> str:
    """The key of a transcript's answer."""
    return store.digest(transcript, settings(config))


def filled(config: Annotate, transcript: str) -> str:
    """The prompt for a transcript."""
    values = {"transcript": transcript, "language": config.language}
    return _PLACE.sub(lambda place: values[place[1]], config.prompt)


def open_folder(root: Path, config: Annotate) -> tuple[Path, str]:
    """The folder of these settings' answers, made where it is missing, and its name, which is drawn once.

    A model that is asked twice may answer differently, so the settings do not identify the answers. The name does: when
    answers are deleted and asked for anew, their folder gets another name.
    """
    folder = root / "readings" / store.digest(settings(config))
    if not store.is_complete(folder):
        about = {"kind": "readings", "settings": settings(config), "name": uuid.uuid4().hex}
        store.write_text(folder / store.META, json.dumps(about, indent=1, ensure_ascii=False))
    return folder, store.read_meta(folder)["name"]


def is_count(value: Any) -> bool:
    """Whether a value from elsewhere is a number of tokens or attempts as it may be stored and added up."""
    return type(value) is int and 0 <= value <= _MOST_COUNT


def read(folder: Path) -> dict[str, ChatAnswer]:
    """The final answers by digest; lines that are torn or hold other values are left out."""
    answers: dict[str, ChatAnswer] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        *lines, _torn = path.read_bytes().split(b"\n")  # a whole line ends with its newline
        for line in lines:
            try:
                answer = ChatAnswer(**json.loads(line))
            except (ValueError, TypeError, RecursionError):  # blocks of a file that a machine lost when it went down
                continue
            if _is_sound(answer) and answer.final:
                answers.setdefault(answer.digest, answer)
    return answers


def _is_sound(answer: ChatAnswer) -> bool:
    words = (answer.digest, answer.status, answer.reading or "")
    counts = (answer.prompt_tokens, answer.answer_tokens, answer.attempts)
    return all(isinstance(word, str) for word in words) and all(map(is_count, counts))


def writer(folder: Path) -> Callable[[ChatAnswer], None]:
    """A function that appends an answer to this run's file; when it returns, the answer is on disk."""
    path = folder / f"answers-{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
    return lambda answer: store.append_lines(path, [json.dumps(asdict(answer))])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs from asking into this folder, which would ask twice; the lock goes with the process.

    Raises ValueError where another run holds it for longer than a killed one could.
    """
    try:
        with lock(folder / "lock", _LOCK_WAIT_S):
            yield
    except TimeoutError:
        raise ValueError(
            f"{folder}: found another run that asks for these readings, expected one at a time: wait for it, or stop it"
        ) from None
