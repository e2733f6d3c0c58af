"""Asking in a process of its own: the actor, and the job's side of it, which keeps the budget of the whole job."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from pydantic import SecretStr
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.config.endpoint_settings import Annotate, Transcribe
from emo_ray.progress import progress
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import UNASKED, ChatAnswer, Usage
from emo_ray.stages.chat.client import ChatRun, Done, Run


class Questions(Protocol):
    """Questions by digest. They cross processes, and may be too large to be in memory at once."""

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


@ray.remote(num_cpus=0)  # it waits
class AskingActor:
    """The process that asks; `ask` yields answer by answer."""

    async def ask(
        self, config: Annotate | Transcribe, seed: int, folder: Path, questions: Questions, key: SecretStr | None
    ) -> AsyncIterator[Done]:
        """Ask the questions that have no final answer in the folder, and keep the answers there.

        Questions that the budget has no room for get no answer. Raises ValueError as `Run.ask_all` and
        `answer_log.locked` do.
        """
        with answer_log.locked(folder):
            write = answer_log.writer(folder)
            run = questions.run_class(config, seed, key, write)
            answers = answer_log.read(folder, run.answer_class)  # another run may have added some meanwhile
            for digest in answers.keys() & set(questions.digests()):
                yield Done(answers[digest], 0, 0)
            async for done in run.ask_all(questions.items(without=answers)):
                yield done


def ask(
    config: Config, asking: Annotate | Transcribe, folder: Path, questions: Questions, usage: Usage
) -> tuple[dict[str, ChatAnswer], Usage]:
    """The answers to these questions, by digest, and what the job has used with them.

    `asking` is the section of the config whose endpoint is asked. Raises ValueError as `AskingActor.ask` does.
    """
    settings = _within(asking, usage)
    answers = {digest: ChatAnswer(digest, UNASKED) for digest in questions.digests()}
    if settings is None:
        return answers, usage
    cluster.connect(config)
    # Beside this process, and with the key as an argument of the call: so it neither leaves the machine nor lies where
    # Ray keeps how actors are made.
    beside_us = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = AskingActor  # Ray's decorator keeps the plain class's type
    actor = actor_class.options(scheduling_strategy=beside_us).remote()
    spent = Usage()
    try:
        with progress(f"asking {asking.model}", len(answers), "questions") as advance:
            for reference in actor.ask.remote(settings, config.seed, folder, questions, cluster.api_key()):
                reply = ray.get(reference)
                answers[reply.answer.digest] = reply.answer
                spent = Usage(max(spent.requests, reply.requests), max(spent.tokens, reply.tokens))
                advance(1)
    finally:
        ray.kill(actor)
    return answers, Usage(usage.requests + spent.requests, usage.tokens + spent.tokens)


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
