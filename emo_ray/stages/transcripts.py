"""Transcripts of the clips that have none, as a table: by a recogniser in actors, or by an endpoint.

A recogniser is an encoder whose answer is text: its parts lie beside the features, have the names and rows of the
shards', and are resumed like them. Where an endpoint transcribes, parts say in which clips somebody speaks; each
distinct sound of those is sent once over all corpora and runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import cluster, parquet, store
from emo_ray.config import Config
from emo_ray.data import clip_tables, status, transcripts
from emo_ray.data.manifest import Clip
from emo_ray.data.transcripts import Transcription
from emo_ray.inference.encoders import RecogniserSpec, recogniser
from emo_ray.progress import say
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import UNASKED, ChatAnswer, SoundAnswer, Usage
from emo_ray.stages.decoding.shard_plan import Decoded
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.stages.encoding.text_sources import Transcripts

Rows = Literal["missing", "given"]


@dataclass(frozen=True)
class Heard:
    """Rows of data.transcripts.SCHEMA, and what decides them."""

    table: pa.Table
    recogniser: str  # a digest, or the name of an endpoint's answers
    unanswered: dict[str, str] = field(default_factory=dict)  # clip_id -> digest of the question
    usage: Usage = field(default_factory=Usage)


def is_configured(config: Config) -> bool:
    """Whether clips without text are transcribed: a recogniser is named, and text is encoded."""
    return config.transcribe.model is not None and "text" in config.modalities and not config.tables.text


def deciding(config: Config) -> dict[str, Any]:
    """The settings of `transcribe` that decide a transcript beside the sound."""
    settings = config.transcribe
    return {**settings.deciding("transcripts"), "model": settings.model, "remote": settings.url is not None}


def transcripts_of(
    config: Config, decoded: Decoded, clips: Iterable[Clip], usage: Usage | None = None
) -> Transcripts | None:
    """The table of the transcripts of these clips where they have none; None where there is nothing to transcribe.

    `usage` is what the job has sent before. Raises ValueError where an endpoint refuses every request, or there is no
    such model.
    """
    if not is_configured(config):
        return None
    clip_ids = {clip.clip_id for clip in clips}
    heard = recognise(config, decoded, clip_ids, "missing", usage or Usage())
    if heard is None:
        return None
    table = clip_tables.of_clips(heard.table, clip_ids)
    root = cluster.store_root(config) / "transcripts"
    path = root / f"transcripts-{store.digest(heard.table.to_pydict())}.parquet"
    if not store.exists(path):
        parquet.write(path, heard.table, parquet.LIGHT_ROWS)
    kinds = status.kinds(table["status"].to_pylist())
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    say(f"{len(table)} of {len(clip_ids)} clips have sound and no text; {config.transcribe.model} wrote: {counts}")
    recogniser_digest = store.digest(heard.recogniser, decoded.shards.name)
    unanswered = {clip_id: digest for clip_id, digest in heard.unanswered.items() if clip_id in clip_ids}
    if unanswered:
        say(f"{len(unanswered)} clips have no answer yet and stay without text: run the job again")
    return Transcripts(
        path, deciding(config), recogniser_digest, frozenset(clip_ids), unanswered, dict(kinds), heard.usage
    )


def recognise(config: Config, decoded: Decoded, clip_ids: set[str], rows: Rows, usage: Usage) -> Heard | None:
    """What a recogniser hears in the shard parts of these clips: in those without text, or in those with one.

    None where none of them has sound to hear.
    """
    encoder = recogniser(config, rows)
    chosen = clip_tables.of_clips(decoded.ledger, clip_ids)
    if not encoder.wanted(chosen):
        return None
    names = set(chosen["part"].to_pylist())
    parts = [name for name in decoded.parts if name in names]
    (folder,) = encode_corpus(config, decoded, [encoder], parts).values()
    table = pa.concat_tables([parquet.read(folder / name) for name in parts])
    table = table.filter(pc.not_equal(table["status"], transcripts.NOT_ASKED))
    if not encoder.is_remote:
        return Heard(table, encoder.digest, usage=usage)
    return _answered(config, decoded, encoder, table, usage)


def _answered(config: Config, decoded: Decoded, encoder: RecogniserSpec, table: pa.Table, usage: Usage) -> Heard:
    """The rows with the answers of an endpoint, asking for what has no final one. Equal sounds are one question."""
    from emo_ray.stages.chat.asking import ask  # these two import openai, which only asking needs
    from emo_ray.stages.chat.sounds import Question, Sounds, settings

    folder, log_name = answer_log.folder_of(cluster.store_root(config), "transcribed", settings(config.transcribe))
    spoken = set(table.filter(pc.equal(table["status"], transcripts.SPOKEN))["clip_id"].to_pylist())
    sound_of = {row["clip_id"]: row for row in _sounds(decoded, encoder) if row["clip_id"] in spoken}
    question_of = {
        row["question"]: Question(decoded.shards / row["part"], clip_id, row["language"])
        for clip_id, row in sound_of.items()
    }
    answers: dict[str, ChatAnswer] = dict(answer_log.read(folder, SoundAnswer))
    new_sounds = Sounds({digest: question for digest, question in question_of.items() if digest not in answers})
    if new_sounds.digests():
        new_answers, usage = ask(config, config.transcribe, folder, new_sounds, usage)
        answers |= new_answers
    answer_of = {clip_id: answers[row["question"]] for clip_id, row in sound_of.items()}
    rows = [
        transcripts.judged(row["clip_id"], _said(answer_of[row["clip_id"]]), sound_of[row["clip_id"]]["audio_s"])
        if row["clip_id"] in answer_of
        else row
        for row in table.to_pylist()
    ]
    unanswered = {clip_id: answer.digest for clip_id, answer in answer_of.items() if not answer.final}
    return Heard(
        pa.Table.from_pylist(rows, transcripts.SCHEMA),
        store.digest(log_name, encoder.digest, encoder.language),
        unanswered,
        usage,
    )


def _sounds(decoded: Decoded, encoder: RecogniserSpec) -> list[dict[str, Any]]:
    """A row for each clip that the encoder is for: `clip_id`, `part`, `audio_s`, `language`; `question`, its digest."""
    ledger = decoded.ledger.filter(pa.array(encoder.concerns(decoded.ledger)))
    language_of = {clip.clip_id: transcripts.spoken_language(clip.language, encoder.language) for clip in decoded.clips}
    rows = ledger.select(["clip_id", "part", "audio_s", "audio_digest"]).to_pylist()
    rows = [row | {"language": language_of[row["clip_id"]]} for row in rows]
    return [row | {"question": store.digest(row["audio_digest"] or row["clip_id"], row["language"])} for row in rows]


def question_digests(decoded: Decoded, encoder: RecogniserSpec) -> dict[str, str]:
    """clip_id -> digest of what an endpoint would be asked about it."""
    return {row["clip_id"]: row["question"] for row in _sounds(decoded, encoder)}


def _said(answer: ChatAnswer) -> Transcription:
    """What an endpoint says of a sound."""
    if answer.status == UNASKED:
        return Transcription(error="not asked: the budget of transcribe.max_requests was used up")
    if isinstance(answer, SoundAnswer) and answer.final:
        return Transcription(answer.reading or "", answer.language, answer.log_prob, answer.no_speech)
    return Transcription(error=answer.status.removeprefix("error: "))
