"""A stronger model's reading of each transcript, as a table.

Each distinct transcript is asked about once, over all corpora and runs; what failed, or was beyond the budget, is asked
again by the next run.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from emo_ray import cluster, parquet, store
from emo_ray.config import Config
from emo_ray.data import status
from emo_ray.data.manifest import Clip
from emo_ray.progress import say
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import FINAL, UNASKED, ChatAnswer, Usage

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of transcript, prompt and model
        pa.field("status", pa.string(), nullable=False),
        pa.field("reading", pa.string()),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("prompt_tokens", "answer_tokens", "attempts")),
    ]
)


@dataclass(frozen=True)
class Readings:
    """A table of readings (SCHEMA), one row a clip with a transcript, and what they are to an encoder of text."""

    path: Path
    settings: Mapping[str, Any]  # that decide an answer beside the transcript: answer_log.settings
    log_name: str  # of the answers that the readings are taken from; other answers have another name
    clip_ids: frozenset[str]  # of the clips with a transcript, a row each
    unanswered: Mapping[str, str]  # clip_id -> digest of its question, of clips without a final answer
    statuses: Mapping[str, int]  # clips by kind of status
    transcripts: int  # distinct ones
    usage: Usage  # of the whole job up to here

    @property
    def digest(self) -> str:
        """The digest of the log that the answers are in, and of the questions that are still open."""
        return store.digest(self.log_name, sorted(set(self.unanswered.values())))

    def covers(self, clips: Iterable[Clip]) -> bool:
        """Whether every one of these clips that has a transcript has a row."""
        return all(clip.clip_id in self.clip_ids for clip in clips if clip.has_words)

    def only(self, clip_ids: Collection[str]) -> "Readings":
        """The readings as these clips see them: questions of others that are still open do not count."""
        return replace(self, unanswered={i: digest for i, digest in self.unanswered.items() if i in clip_ids})

    def content(self) -> dict[str, Any]:
        """Counts of clips, transcripts and statuses, and what the job used."""
        return {
            "clips": sum(self.statuses.values()),
            "transcripts": self.transcripts,
            "statuses": dict(self.statuses),
            **asdict(self.usage),
        }


def readings_of(config: Config, clips: Iterable[Clip], usage: Usage | None = None) -> Readings | None:
    """The table of these clips, by clip_id, asking for what has no final answer; None where none are asked for.

    `usage` is what the job has used before: `annotate.max_requests` and `annotate.max_tokens` are limits of a whole
    job. Raises ValueError where the endpoint is not there or refuses every request.
    """
    if not config.annotate.asks_for_readings:
        return None
    text_of = {clip.clip_id: clip.text or "" for clip in clips if clip.has_words}
    digest_of = answer_log.digests(config.annotate, text_of)
    folder, log_name = answer_log.open_folder(cluster.store_root(config), config.annotate)
    answers = answer_log.read(folder, ChatAnswer)
    usage = usage or Usage()
    prompts = {
        digest: answer_log.filled(config.annotate, text_of[clip_id])
        for clip_id, digest in digest_of.items()
        if digest not in answers
    }
    if prompts:
        from emo_ray.stages.chat.asking import Prompts, ask  # it imports openai, and most jobs have nothing to ask

        new_answers, usage = ask(config, config.annotate, folder, Prompts(prompts), usage)
        answers |= new_answers
    rows = [{"clip_id": clip_id, **asdict(answers[digest])} for clip_id, digest in sorted(digest_of.items())]
    table = pa.Table.from_pylist(rows, SCHEMA)
    path = folder / f"readings-{store.digest(table.to_pydict())}.parquet"
    if not store.exists(path):
        parquet.write(path, table, parquet.LIGHT_ROWS)
    unanswered = {clip_id: digest for clip_id, digest in digest_of.items() if not answers[digest].final}
    kinds = status.kinds(table["status"].to_pylist())
    settings = answer_log.settings(config.annotate)
    transcripts = len(set(digest_of.values()))
    readings = Readings(path, settings, log_name, frozenset(text_of), unanswered, dict(kinds), transcripts, usage)
    if unanswered:
        say(
            f"{len(set(unanswered.values()))} of {readings.transcripts} transcripts have no answer yet and stand alone "
            f"until then: run jobs/annotate.py again ({_reasons(answers[d] for d in set(unanswered.values()))})"
        )
    return readings


def _reasons(answers: Iterable[ChatAnswer]) -> str:
    """The commonest statuses of transcripts without a final answer, with how many transcripts have each."""
    counts = Counter(answer.status for answer in answers if answer.status not in FINAL)
    words = {UNASKED: "not asked: the budget of annotate.max_requests or annotate.max_tokens was used up"}
    return "; ".join(f"{count} {words.get(text, text)}" for text, count in counts.most_common(3))
