"""The sections of the configuration whose answers an endpoint may give: readings of transcripts, and transcripts."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

ASKED = Condition("annotate.url is set and annotate.task is reading", lambda config: config.annotate.asks_for_readings)
TRANSCRIBED = Condition("transcribe.model is set", lambda config: config.transcribe.model is not None)
RECOGNISER = Condition(
    "transcribe.model is set and transcribe.url is not",
    lambda config: config.transcribe.model is not None and config.transcribe.url is None,
)
SPOKEN_TO = Condition(
    "transcribe.url is set", lambda config: config.transcribe.model is not None and config.transcribe.url is not None
)


class Endpoint(Section):
    """How patiently an OpenAI-compatible endpoint is asked."""

    concurrency: int = setting(
        8, "Requests under way at once, over the whole job.", decides=NOTHING, owner="caller", ge=1
    )
    timeout_s: float = setting(60.0, "Time-out of a request in seconds.", decides=NOTHING, owner="caller", gt=0)
    max_attempts: int = setting(
        6, "Requests for one clip in one run, failed ones included.", decides=NOTHING, owner="caller", ge=1
    )
    backoff_s: float = setting(
        1.0,
        "Wait before the second request for a clip, in seconds; doubled before each further one.",
        decides=NOTHING,
        owner="caller",
        gt=0,
    )
    max_wait_s: float = setting(
        60.0,
        "Longest wait between two requests, in seconds. An endpoint that asks for a longer one ends the run.",
        decides=NOTHING,
        owner="caller",
        gt=0,
    )

    @field_validator("url", check_fields=False)  # which subclasses have, for it decides other artefacts in each
    @classmethod
    def _endpoint(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://nowhere")
        if parts.username or parts.password or parts.query:  # and a URL is written to files
            section = cls.__name__.lower()
            raise ValueError(f"found credentials or a query in {section}.url, expected the key in OPENAI_API_KEY alone")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"found {url!r}, expected http://HOST:PORT/v1 or https://HOST/v1")
        return url


class Annotate(Endpoint, decides=by_value("readings", only_if=ASKED)):
    """A stronger model's reading of each transcript, or its label of each clip, asked of an OpenAI-compatible endpoint.

    The key is OPENAI_API_KEY of the environment and no setting, so that no file or run can hold it. A checkpoint says
    what is asked and of which model, never whom: else it could name the URL that somebody's key is sent to.
    """

    url: str | None = setting(
        None,
        "The endpoint, e.g. http://127.0.0.1:8000/v1. null: no readings are made, and none are used.",
        decides=by_content("readings"),
        owner="caller",
    )
    task: Literal["reading", "label"] = setting(
        "reading",
        "What is asked for. reading: words about each transcript, for text encoders. label: one of the classes for "
        "each clip, which jobs/annotate.py writes as a table for pseudo.chat_labels; no other job asks then.",
        decides=by_content("readings"),
        owner="caller",
    )
    # These decide the table of labels alone, which jobs are given as a file.
    parts: tuple[Literal["text", "frames", "sound"], ...] = setting(
        ("text",),
        "What of a clip is sent to be labelled: its transcript, frames (of faces!), its sound.",
        decides=NOTHING,
        owner="caller",
        min_length=1,
    )
    frames: int = setting(
        4, "Most frames of a clip that are sent, spread evenly.", decides=NOTHING, owner="caller", ge=1, le=16
    )
    frame_px: int = setting(
        448, "Longest side of a frame that is sent, in pixels.", decides=NOTHING, owner="caller", ge=16, le=1024
    )
    label_prompt: str = setting(
        "Which of these emotions does the person show: {labels}? Answer with that word alone.",
        "What the model is asked for a label; {labels} is filled in.",
        decides=NOTHING,
        owner="caller",
    )
    model: str = setting("gpt-4", "The model, as the endpoint calls it.")
    prompt: str = setting(
        'Somebody says: "{transcript}"\n'
        "Describe the speaker's likely emotional state in one or two short sentences, and what in the words shows it. "
        "Answer in {language}.",
        "What the model is asked; {transcript} and {language} are filled in. Quote it in YAML.",
    )
    language: str = setting("English", "Language of the readings.")
    max_answer_tokens: int = setting(120, "Longest answer in tokens; a longer one is cut there.", ge=1)
    request: dict[str, Any] = setting(
        {}, "Further fields of each request; null takes one of ours out: max_tokens, temperature."
    )
    max_requests: int | None = setting(
        None,
        "Budget of a run in requests, failed ones included. What it leaves unasked is asked in the next run.",
        decides=by_content("readings"),
        owner="caller",
        ge=1,
    )
    max_tokens: int | None = setting(
        None,
        "Budget of a run in tokens of prompts and answers, as the endpoint counts them.",
        decides=by_content("readings"),
        owner="caller",
        ge=1,
    )

    @field_validator("request")
    @classmethod
    def _other_fields(cls, request: dict[str, Any]) -> dict[str, Any]:
        if taken := {"model", "messages", "stream", "n"} & set(request):
            raise ValueError(f"found {', '.join(sorted(taken))} in annotate.request, expected other fields")
        return request

    @property
    def asks_for_readings(self) -> bool:
        """Whether transcripts are encoded with readings of an endpoint."""
        return self.url is not None and self.task == "reading"

    @model_validator(mode="after")
    def _words_alone(self) -> "Annotate":
        if self.task == "reading" and self.parts != ("text",):
            raise ValueError(
                f"found annotate.parts={list(self.parts)} with annotate.task=reading, expected [text]: readings are of "
                "transcripts; annotate.task=label sends other parts"
            )
        return self

    @field_validator("label_prompt")
    @classmethod
    def _names_labels(cls, prompt: str) -> str:
        if prompt.count("{labels}") != 1:
            raise ValueError(f"found {prompt!r}, expected {{labels}} once")
        return prompt

    @field_validator("prompt", mode="before")
    @classmethod
    def _no_mapping(cls, prompt: Any) -> Any:
        if isinstance(prompt, dict):  # how YAML reads a bare {transcript}
            raise ValueError(f"found {prompt!r}, expected text in quotes that YAML sees: 'annotate.prompt=\"...\"'")
        return prompt

    @field_validator("prompt")
    @classmethod
    def _places(cls, prompt: str) -> str:
        places = re.findall(r"{(\w+)}", prompt)
        if places.count("transcript") != 1 or set(places) - {"transcript", "language"}:
            raise ValueError(f"found {prompt!r}, expected {{transcript}} once and of other such brackets {{language}}")
        return prompt


class Transcribe(Endpoint, decides=by_value("transcripts", only_if=TRANSCRIBED)):
    """A speech recogniser that writes transcripts of clips that have none: a model, or an OpenAI-compatible endpoint.

    A transcript that a corpus brings along is never replaced. The key of an endpoint is OPENAI_API_KEY.
    """

    model: str | None = setting(
        None,
        "A recogniser of transformers (hub name or folder); with transcribe.url the model as the endpoint calls it. "
        "null: nothing is transcribed.",
        decides=by_content("transcripts"),
        path=True,
    )
    revision: str | None = setting(
        None,
        "Commit, tag or branch of a hub name. null: its main branch.",
        decides=by_content("transcripts", only_if=RECOGNISER) + by_value("sweep"),
    )
    url: str | None = setting(
        None,
        "An endpoint with /audio/transcriptions, e.g. http://127.0.0.1:8000/v1. null: transformers runs the model.",
        decides=by_content("transcripts", only_if=TRANSCRIBED),
        owner="caller",
    )
    language: str | None = setting(
        None, "Language of clips whose manifest names none, such as en or zh. null: whichever is heard."
    )
    dtype: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "Number format of the model. auto: bf16 on GPUs that have it, else fp32.",
        decides=by_value("transcripts", only_if=RECOGNISER),
    )
    batch_size: int = setting(8, "Sounds in a pass through the model.", decides=NOTHING, ge=1)
    request: dict[str, Any] = setting(
        {},
        "Further fields of each request to the endpoint; null takes one of ours out: response_format, temperature.",
        decides=by_value("transcripts", only_if=SPOKEN_TO),
    )
    max_requests: int | None = setting(
        None,
        "Budget of a run in requests, failed ones included. What it leaves unasked is asked in the next run.",
        decides=by_content("transcripts", only_if=SPOKEN_TO),
        owner="caller",
        ge=1,
    )
    compare: bool = setting(
        False,
        "Whether jobs/transcribe.py also writes down clips that have a transcript, to count words that differ.",
        decides=NOTHING,
        owner="caller",
    )

    @field_validator("request")
    @classmethod
    def _other_fields(cls, request: dict[str, Any]) -> dict[str, Any]:
        if taken := {"model", "file", "language", "stream"} & set(request):
            raise ValueError(f"found {', '.join(sorted(taken))} in transcribe.request, expected other fields")
        return request

    @model_validator(mode="after")
    def _named(self) -> "Transcribe":
        if self.url is not None and self.model is None:
            raise ValueError(
                f"found transcribe.url={self.url} without transcribe.model, expected the model as the endpoint calls it"
            )
        return self
