"""annotate: a stronger model's reading of each transcript, from a chat endpoint to a table.

Each distinct transcript is asked about once, over all corpora and runs; what failed, or was beyond the budget, is asked
again by the next run. `features` and what comes after it make and use these readings where `annotate.url` is set.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.data.manifest import Clip
from emo_ray.progress import progress, say
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import FINAL, UNASKED, ChatAnswer
from emo_ray.stages.prepare import plan_shards

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
class Used:
    """What a run has sent, and the tokens that its answers took."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Readings:
    """A table of readings (SCHEMA), one row a clip with a transcript, and what they are to an encoder of text."""

    path: Path
    digest: str  # of the readings that clips have or will have, and of those that are still to come
    statuses: dict[str, int]  # clips by kind of status
    transcripts: int  # distinct ones
    used: Used

    def summary(self) -> dict:
        """What a user wants to know at a glance."""
        return {
            "clips": sum(self.statuses.values()),
            "transcripts": self.transcripts,
            "statuses": self.statuses,
            **asdict(self.used),
        }


def annotate(config: Config) -> Readings:
    """Readings of every clip with a transcript that `config.data` names; nothing is decoded for it.

    Raises ValueError without `annotate.url`, and where the endpoint is not there or refuses every request.
    """
    if config.annotate.url is None:
        raise ValueError(
            "found no annotate.url, expected an OpenAI-compatible endpoint such as http://127.0.0.1:8000/v1, and the "
            "key that it wants, if any, in OPENAI_API_KEY"
        )
    cluster.connect(config)
    return readings_of(config, [clip for clips in plan_shards(config).clips_of.values() for clip in clips])


def readings_of(config: Config, clips: Iterable[Clip]) -> Readings | None:
    """The table of these clips, by clip_id, asking for what has no final answer; None without `annotate.url`."""
    if config.annotate.url is None:
        return None
    texts = {clip.clip_id: clip.text for clip in clips if clip.text and clip.text.strip()}
    digest_of = {clip_id: answer_log.digest(config.annotate, text) for clip_id, text in texts.items()}
    folder, name = answer_log.open_folder(cluster.store_root(config), config.annotate)
    found, used = answer_log.read(folder), Used()
    prompts = {
        digest: answer_log.filled(config.annotate, texts[clip_id])
        for clip_id, digest in digest_of.items()
        if digest not in found
    }
    if prompts:
        new, used = _ask(config, folder, prompts)
        found |= new
    table = _table(digest_of, found)
    path = folder / f"readings-{store.digest(table.to_pydict())}.parquet"
    if not path.exists():
        store.write_parquet(path, table, rows_per_group=2**12)
    missing = sorted({digest for digest in digest_of.values() if not found[digest].final})
    kinds = Counter(status.partition(":")[0] for status in table["status"].to_pylist())
    readings = Readings(path, store.digest(name, missing), dict(kinds), len(set(digest_of.values())), used)
    if missing:
        say(
            f"{len(missing)} of {readings.transcripts} transcripts have no answer yet and stand alone until then: run "
            f"jobs/annotate.py again ({_reasons(table)})"
        )
    return readings


def _ask(config: Config, folder: Path, prompts: dict[str, str]) -> tuple[dict[str, ChatAnswer], Used]:
    """The answers to these prompts, by digest, and what they took."""
    from emo_ray.stages.chat.client import (
        ChatActor,  # the client takes a second to import, and most runs have nothing to ask
    )

    # Beside this process, and with the key as an argument of the call: so it neither leaves the machine nor lies where
    # Ray keeps how actors are made.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ChatActor.options(scheduling_strategy=here).remote()
    found, used = {digest: ChatAnswer(digest, UNASKED) for digest in prompts}, Used()
    try:
        with progress(f"asking {config.annotate.model}", len(prompts), "transcripts") as advance:
            for done in actor.ask.remote(config.annotate, config.seed, folder, prompts, cluster.api_key()):
                done = ray.get(done)
                found[done.answer.digest], used = done.answer, Used(done.requests, done.tokens)
                advance(1)
    finally:
        ray.kill(actor)
    return found, used


def _table(digest_of: dict[str, str], found: dict[str, ChatAnswer]) -> pa.Table:
    rows = [{"clip_id": clip_id, **asdict(found[digest])} for clip_id, digest in sorted(digest_of.items())]
    return pa.Table.from_pylist(rows, SCHEMA)


def _reasons(table: pa.Table) -> str:
    """The commonest statuses of rows without a final answer."""
    reasons = Counter(status for status in table["status"].to_pylist() if status not in FINAL)
    named = {UNASKED: "the budget was used up"}
    return "; ".join(f"{count} of {named.get(status, status)}" for status, count in reasons.most_common(3))
