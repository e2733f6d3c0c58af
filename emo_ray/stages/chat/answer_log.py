"""Answers on disk: one folder per model and way of asking, shared by all corpora.

Every run appends to files of its own, one line an answer, and each line is safe on disk before it counts. A kill may
tear the last line, which is left out when the files are read. Final answers never change.
"""

import itertools
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from emo_ray import durable, store
from emo_ray.config.endpoint_settings import Annotate
from emo_ray.locks import lock

VERSION = 1
TEMPERATURE = 0.0  # the same words, the same answer, as far as the endpoint can
UNCLEAR = "unclear"  # an answer that names none of the labels to choose from, or several
FINAL = ("ok", "cut", "refused", "empty", UNCLEAR)
UNASKED = "budget"
_ANSWERS_PER_FILE = 1000
_MOST_COUNT = 10**9
_LOCK_WAIT_S = 30.0  # the time that the processes of a killed run take to be gone
_PLACE = re.compile(r"{(transcript|language)}")


@dataclass(frozen=True)
class Usage:
    """What a job has sent, and the tokens that its answers took."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class ChatAnswer:
    """The outcome of one question: a final status, `error: why`, or `budget`, and the words where there are some.

    The status `cut` says that the answer ended at `annotate.max_answer_tokens`; its text is used as it is.
    """

    digest: str  # of everything that decides the answer
    status: str
    reading: str | None = None
    prompt_tokens: int = 0  # of all requests of the run for this question
    answer_tokens: int = 0
    attempts: int = 0

    @property
    def final(self) -> bool:
        """Whether the question is never asked again."""
        return self.status in FINAL

    @property
    def is_sound(self) -> bool:
        """Whether every value is one that may have been written."""
        words = (self.digest, self.status, self.reading or "")
        counts = (self.prompt_tokens, self.answer_tokens, self.attempts)
        return all(isinstance(word, str) for word in words) and all(map(is_count, counts))


@dataclass(frozen=True)
class SoundAnswer(ChatAnswer):
    """The outcome for one sound; `reading` are the words, the rest is None where the endpoint does not tell."""

    language: str | None = None
    log_prob: float | None = None  # mean over the segments
    no_speech: float | None = None  # of the segment in which somebody speaks most likely

    @property
    def is_sound(self) -> bool:
        """Whether every value is one that may have been written."""
        numbers = (self.log_prob or 0.0, self.no_speech or 0.0)
        are_numbers = all(isinstance(number, int | float) for number in numbers)
        return super().is_sound and isinstance(self.language or "", str) and are_numbers


AnswerT = TypeVar("AnswerT", bound=ChatAnswer)


def settings(config: Annotate) -> dict:
    """The settings that decide an answer beside the transcript. The URL does not: a model may move."""
    return {**config.deciding("readings"), "temperature": TEMPERATURE, "version": VERSION}


def digest(config: Annotate, transcript: str) -> str:
    """The key of a transcript's answer."""
    return digests(config, {"": transcript})[""]


def digests(config: Annotate, text_of: Mapping[str, str]) -> dict[str, str]:
    """The keys of many transcripts' answers, by clip_id as the transcripts are."""
    deciding = settings(config)
    return {clip_id: store.digest(text, deciding) for clip_id, text in text_of.items()}


def filled(config: Annotate, transcript: str) -> str:
    """The prompt for a transcript."""
    values = {"transcript": transcript, "language": config.language}
    return _PLACE.sub(lambda place: values[place[1]], config.prompt)


def open_folder(root: Path, config: Annotate) -> tuple[Path, str]:
    """The folder of readings for these settings: see `folder_of`."""
    return folder_of(root, "readings", settings(config))


def folder_of(root: Path, kind: str, settings: dict) -> tuple[Path, str]:
    """The folder of these settings' answers, made where it is missing, and its name, which is drawn once.

    A model that is asked twice may answer differently, so the settings do not identify the answers. The name does: when
    answers are deleted and asked for anew, their folder gets another name.
    """
    folder = root / kind / store.digest(settings)
    if not store.is_complete(folder):
        about = {"kind": kind, "settings": settings, "name": uuid.uuid4().hex}
        durable.write_json(folder / store.META, about)
    return folder, store.read_meta(folder)["name"]


def is_count(value: Any) -> bool:
    """Whether a value from elsewhere is a number of tokens or attempts as it may be stored and added up."""
    return type(value) is int and 0 <= value <= _MOST_COUNT


def read(folder: Path, kind: type[AnswerT]) -> dict[str, AnswerT]:
    """The final answers of a kind by digest; lines that are torn or hold other values are left out."""
    answers: dict[str, AnswerT] = {}
    for name in store.names(folder, "answers-*.jsonl"):
        *lines, _torn = store.local(folder / name).read_bytes().split(b"\n")  # a whole line ends with its newline
        for line in lines:
            try:
                answer = kind(**json.loads(line))
            except (ValueError, TypeError, RecursionError):  # blocks of a file that a machine lost when it went down
                continue
            if answer.is_sound and answer.final:
                answers.setdefault(answer.digest, answer)
    return answers


def writer(folder: Path) -> Callable[[ChatAnswer], None]:
    """A function that appends an answer to this run's files; when it returns, the answer is on disk.

    A file is full at some size, because one in a bucket is written again with each answer.
    """
    run = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    numbers = itertools.count()

    def write(answer: ChatAnswer) -> None:
        path = folder / f"answers-{run}-{next(numbers) // _ANSWERS_PER_FILE:04d}.jsonl"
        durable.append_lines(path, [json.dumps(asdict(answer))])

    return write


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
            f"{folder}: found another run that asks for these answers, expected one at a time: wait for it, or stop it"
        ) from None
