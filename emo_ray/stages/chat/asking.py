"""Asking many questions at a time in a thread of the job, within the budget of the whole job."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from anyio.from_thread import start_blocking_portal

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.config.endpoint_settings import Annotate, Transcribe
from emo_ray.progress import progress
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import UNASKED, ChatAnswer, Usage
from emo_ray.stages.chat.client import ChatRun, Done, Run


class Questions(Protocol):
    """Questions by digest, which may be too large to be in memory at once."""

    @property
    def run_class(self) -> type[Run]:
        """What asks them."""

    def digests(self) -> Collection[str]:
        """All digests."""

    def items(self, without: Collection[str]) -> Iterable[tuple[str, Any]]:
        """Digests and questions but for some digests, one after the other."""


@dataclass(frozen=True)
class Prompts:
    """Prompts by digest."""

    prompt_of: Mapping[str, str]

    @property
    def run_class(self) -> type[ChatRun]:
        """What asks them."""
        return ChatRun

    def digests(self) -> Collection[str]:
        """All digests."""
        return self.prompt_of.keys()

    def items(self, without: Collection[str]) -> Iterable[tuple[str, str]]:
        """Digests and prompts but for some digests."""
        return ((digest, prompt) for digest, prompt in self.prompt_of.items() if digest not in without)


def ask(
    config: Config, asking: Annotate | Transcribe, folder: Path, questions: Questions, usage: Usage
) -> tuple[dict[str, ChatAnswer], Usage]:
    """The answers to these questions, by digest, and what the job has used with them.

    `asking` is the section of the config whose endpoint is asked. Raises ValueError as `Run.ask_all` and
    `answer_log.locked` do.
    """
    settings = _within(asking, usage)
    answers = {digest: ChatAnswer(digest, UNASKED) for digest in questions.digests()}
    if settings is None:
        return answers, usage
    spent = Usage()
    replies: SimpleQueue[Done | None] = SimpleQueue()
    # The event loop has a thread of its own: a signal's exception, which is raised in the main thread, could get lost
    # in a callback of the loop. When it ends this block, the requests that are under way are cancelled.
    with (
        answer_log.locked(folder),
        progress(f"asking {asking.model}", len(answers), "questions") as advance,
        start_blocking_portal() as portal,
    ):
        task = portal.start_task_soon(_ask, settings, config.seed, folder, questions, replies.put)
        task.add_done_callback(lambda _: replies.put(None))
        for reply in iter(replies.get, None):
            answers[reply.answer.digest] = reply.answer
            spent = Usage(max(spent.requests, reply.requests), max(spent.tokens, reply.tokens))
            advance(1)
        task.result()
    return answers, Usage(usage.requests + spent.requests, usage.tokens + spent.tokens)


async def _ask(
    asking: Annotate | Transcribe, seed: int, folder: Path, questions: Questions, reply: Callable[[Done], None]
) -> None:
    """Ask the questions that have no final answer in the folder, keep the answers there, and reply with each.

    Questions that the budget has no room for get no answer.
    """
    run = questions.run_class(asking, seed, cluster.api_key(), answer_log.writer(folder))
    answers = answer_log.read(folder, run.answer_class)  # another run may have added some meanwhile
    for digest in answers.keys() & set(questions.digests()):
        reply(Done(answers[digest], 0, 0))
    async for done in run.ask_all(questions.items(without=answers)):
        reply(done)


def _within(asking: Annotate | Transcribe, usage: Usage) -> Any:
    """The settings of asking with what is left of the job's budget; None where nothing is left."""
    left: dict[str, int] = {}
    for name, used in (("max_requests", usage.requests), ("max_tokens", usage.tokens)):
        limit = getattr(asking, name, None)
        if limit is not None:
            left[name] = limit - used
    if any(value < 1 for value in left.values()):
        return None
    return asking.model_copy(update=left)
