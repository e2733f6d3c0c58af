"""Sending questions to an endpoint, many at a time, each until it is answered or out of attempts.

One event loop does it. Requests wait for the network, so a fraction of a core keeps hundreds of them running; one
counter keeps the budget exact, and one writer ensures that nothing is asked twice.
"""

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import islice
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import openai
from openai.types.chat import ChatCompletion
from pydantic import SecretStr

from emo_ray.config.endpoint_settings import Annotate, Transcribe
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import UNASKED, ChatAnswer
from emo_ray.stages.chat.http_bounds import BOUNDS, OutOfBounds

ConfigT = TypeVar("ConfigT", Annotate, Transcribe)
QuestionT = TypeVar("QuestionT")
TEMPLATE_TOKENS = 256  # what a chat template may put around a prompt
FORM_REFUSED = (openai.BadRequestError, openai.UnprocessableEntityError)  # how a field that is not known is answered
_AGAIN = {408, 409, 425, 429}  # and 5xx: the same request may succeed later
_LONGEST_WHY = 200  # characters of an error's reason that are kept
_TOKEN_CHARACTERS = 256  # more than any token has


@dataclass(frozen=True)
class Done:
    """An answer, and what the run has used until then."""

    answer: ChatAnswer
    requests: int
    tokens: int


@dataclass(frozen=True)
class Attempt:
    """The outcome of one request. `tokens` is None where the answer did not tell."""

    status: str
    reading: str | None = None
    tokens: tuple[int, int] | None = (0, 0)  # of the prompt and of the answer
    again: bool = False  # the same request may succeed later
    wait_s: float = 0.0  # how long the endpoint asked to wait
    more: Mapping[str, Any] = field(default_factory=dict)  # further fields of the run's kind of answer


class Budget:
    """What a run may still send. A request reserves the most tokens it can take until its real use is known."""

    def __init__(self, most_requests: int | None, most_tokens: int | None):
        self.most_requests = most_requests or float("inf")
        self.most_tokens = most_tokens or float("inf")
        self.requests, self.tokens, self.held = 0, 0, 0
        self.over, self.changed = asyncio.Event(), asyncio.Event()  # over: nothing more is sent

    async def take(self, tokens: int) -> bool:
        """Reserve a request of at most so many tokens; false where the budget has no room for it and never will."""
        while not self.over.is_set():
            if self.tokens + self.held + tokens <= self.most_tokens:
                self.requests, self.held = self.requests + 1, self.held + tokens
                if self.requests == self.most_requests:
                    self.over.set()
                return True
            if self.held:
                self.changed.clear()
                await self.changed.wait()  # others may give back tokens that they reserved and did not use
            else:
                self.over.set()
        return False

    def settle(self, held: int, used: int) -> None:
        """Give back the tokens that a request reserved and did not use."""
        self.held, self.tokens = self.held - held, self.tokens + used
        self.changed.set()


class Run(Generic[ConfigT, QuestionT]):
    """One run of asking: its client, its budget, how long the endpoint asked to wait, and what the user must mend.

    Subclasses say how a question becomes a request, and what its answer says.
    """

    expected: str  # what the endpoint should send
    answer_class: type[ChatAnswer] = ChatAnswer

    def __init__(self, config: ConfigT, seed: int, key: SecretStr | None, write: Callable[[ChatAnswer], None]):
        self.config: ConfigT = config
        self.seed, self.write = seed, write
        self.key = key.get_secret_value() if key else None
        self.client = openai.AsyncOpenAI(  # without a key it would look for one by itself
            base_url=config.url,
            api_key=self.key or "none",
            max_retries=0,
            timeout=config.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(timeout=config.timeout_s, **BOUNDS),
        )
        self.budget = Budget(config.max_requests, config.max_tokens if isinstance(config, Annotate) else None)
        self.resume_s = 0.0  # a time of `time.monotonic`
        self.has_answered = False  # whether the endpoint has sent anything at all
        self.wrong: str | None = None

    @abstractmethod
    def most_tokens(self, question: QuestionT) -> int:
        """The most tokens that a request and its answer take."""

    @abstractmethod
    async def send(self, question: QuestionT) -> Attempt:
        """The outcome of a request that is answered; what the client raises is looked at by `attempt`."""

    async def ask_all(self, questions: Iterable[tuple[str, QuestionT]]) -> AsyncIterator[Done]:
        """Ask questions (digest, content), `concurrency` at a time, until all are asked or none may be.

        Questions are taken from the iterable when they are asked.

        Raises ValueError where the endpoint is not there or refuses every request (a wrong URL, model or key), after
        the running requests have ended.
        """
        waiting = iter(questions)
        running: set[asyncio.Task[ChatAnswer]] = set()
        try:
            while True:
                free = 0 if self.budget.over.is_set() else self.config.concurrency - len(running)
                running |= {asyncio.create_task(self.ask_one(*item)) for item in islice(waiting, free)}
                if not running:
                    break
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield Done(task.result(), self.budget.requests, self.budget.tokens)
        finally:
            for task in running:
                task.cancel()
            await self.client.close()
        if self.wrong:
            raise ValueError(self.wrong)

    async def ask_one(self, digest: str, question: QuestionT) -> ChatAnswer:
        """Ask one question until it is answered; the answer is on disk when this returns."""
        dice = random.Random(f"{self.seed} {digest}")
        most_tokens = self.most_tokens(question)
        answer = ChatAnswer(digest, UNASKED)
        for attempt in range(1, self.config.max_attempts + 1):
            await self.wait_for_endpoint()
            if not await self.budget.take(most_tokens):
                break
            outcome = await self.attempt(question)
            prompt_tokens, answer_tokens = (most_tokens, 0) if outcome.tokens is None else outcome.tokens
            self.budget.settle(most_tokens, prompt_tokens + answer_tokens)
            answer = self.answer_class(
                digest,
                outcome.status,
                outcome.reading,
                answer.prompt_tokens + prompt_tokens,
                answer.answer_tokens + answer_tokens,
                attempt,
                **outcome.more,
            )
            if not outcome.again or attempt == self.config.max_attempts:
                break
            self.resume_s = max(self.resume_s, time.monotonic() + outcome.wait_s)
            longest_s = min(self.config.max_wait_s, self.config.backoff_s * 2 ** (attempt - 1))
            await self.sleep(outcome.wait_s + longest_s * dice.uniform(0.5, 1))
        if answer.attempts:
            self.write(answer)
        if not self.has_answered and answer.attempts == self.config.max_attempts:
            self.stop(f"found nobody who answers ({answer.status}), expected an OpenAI-compatible server: start it")
        return answer

    def stop(self, wrong: str | None = None) -> None:
        """Send nothing more in this run; `wrong` says what the user can mend."""
        section = type(self.config).__name__.lower()
        self.wrong = self.wrong or (wrong and f"{self.config.url}: {wrong}, or mend {section}.url")
        self.budget.over.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, or return at once when nothing more will be sent."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.budget.over.wait(), seconds)

    async def wait_for_endpoint(self) -> None:
        """Wait as long as the endpoint asked any request to wait: its limits are shared by all questions."""
        while (wait_s := self.resume_s - time.monotonic()) > 0 and not self.budget.over.is_set():
            await self.sleep(wait_s)

    async def attempt(self, question: QuestionT) -> Attempt:
        """One request."""
        try:
            async with asyncio.timeout(self.config.timeout_s):  # the client's own begins anew with every byte
                outcome = await self.send(question)
        except (TimeoutError, openai.APITimeoutError):
            return Attempt(f"error: no answer in {self.config.timeout_s:g} s", again=True)
        except openai.APIConnectionError as error:
            return Attempt(f"error: {self.clean(f'no connection: {error.__cause__ or error}')}", again=True)
        except OutOfBounds as error:
            self.has_answered = True
            why = self.clean(str(error), 2 * _LONGEST_WHY)
            self.stop(f"{why}; give the address of an endpoint that sends {self.expected}")
            return Attempt(f"error: {why}", tokens=None)
        except openai.APIStatusError as error:
            self.has_answered = True
            return self.refused(error)
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # an answer, and no JSON
            self.has_answered = True
            return self.misunderstood(str(error))
        self.has_answered = True
        return outcome

    def misunderstood(self, why: str) -> Attempt:
        """The outcome of an answer that is not of the form that is expected."""
        return Attempt(f"error: {self.clean(f'no {self.expected}: {why}')}", tokens=None, again=True)

    def refused(self, error: openai.APIStatusError) -> Attempt:
        """The outcome of a request that got an HTTP error; errors that all requests would get end the run."""
        status, why = error.status_code, f"error: {self.clean(error.message)}"
        if error.code == "content_filter":
            return Attempt("refused")
        if status in (401, 404) or error.code == "insufficient_quota":
            self.stop(
                f"found {why}, expected the model {self.config.model} and a key for it in OPENAI_API_KEY: mend these"
            )
            return Attempt(why)
        wait_s = retry_after_s(error.response.headers)
        if wait_s > self.config.max_wait_s:
            self.stop()
            return Attempt(why)
        return Attempt(why, again=status in _AGAIN or status >= 500, wait_s=wait_s)

    def clean(self, text: str, longest: int | None = _LONGEST_WHY) -> str:
        """A server's text as it may be stored: without the key, even if the server echoes it, and as valid Unicode."""
        text = text.replace(self.key, "***") if self.key else text
        text = text.encode("utf-8", "replace").decode().strip()
        return text if longest is None else " ".join(text.split())[:longest]


class CompletionRun(Run[Annotate, QuestionT]):
    """A run that asks a chat endpoint for completions."""

    expected = "chat completion"

    async def complete(self, content: Any, more: Mapping[str, Any] = MappingProxyType({})) -> Attempt:
        """Ask for a completion of a message: text, or content parts. `more` are further fields of the request."""
        fields = {
            "temperature": answer_log.TEMPERATURE,
            "max_tokens": self.config.max_answer_tokens,
            **more,
            **self.config.request,
        }
        completion = await self.client.chat.completions.create(
            model=self.config.model,
            messages=[{"role": "user", "content": content}],
            extra_body={name: value for name, value in fields.items() if value is not None},
        )
        return self.read(completion)

    def read(self, completion: ChatCompletion) -> Attempt:
        """The outcome of a completion, whose form the client does not check."""
        try:
            choice, usage = completion.choices[0], completion.usage
            content, ended = choice.message.content or "", choice.finish_reason
            declined = bool(choice.message.refusal) or ended == "content_filter"
            counts: list[Any] = [usage.prompt_tokens, usage.completion_tokens] if usage else [None]
            tokens = (counts[0], counts[1]) if all(map(answer_log.is_count, counts)) else None
            longest = _TOKEN_CHARACTERS * self.config.max_answer_tokens
            if len(content) > longest:
                raise ValueError(f"{len(content)} characters, expected at most {longest}")
            reading = self.clean(content, None)
        except (AttributeError, IndexError, TypeError, ValueError, LookupError) as error:
            return self.misunderstood(repr(error))
        if declined:
            return Attempt("refused", tokens=tokens)
        if not reading:
            return Attempt("empty", tokens=tokens)
        return Attempt("cut" if ended == "length" else "ok", reading, tokens)


class ChatRun(CompletionRun[str]):
    """A run that sends prompts to a chat endpoint."""

    def most_tokens(self, question: str) -> int:
        """An upper bound of one question's tokens: the bytes of the prompt, the template, the longest answer."""
        return len(question.encode()) + TEMPLATE_TOKENS + self.config.max_answer_tokens

    async def send(self, question: str) -> Attempt:
        """Ask for a completion."""
        return await self.complete(question)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that an answer's headers ask to wait; 0 where they do not."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "0")
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
