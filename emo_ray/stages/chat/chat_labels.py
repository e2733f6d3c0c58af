"""A chat model's labels of the clips of a corpus, as a table, which jobs take as `pseudo.chat_labels`.

Each distinct clip is asked about once, over all runs; what failed, or was beyond the budget, is asked in the next run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from emo_ray import cluster, parquet, store
from emo_ray.config import Config
from emo_ray.data import clip_tables
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import Prepared
from emo_ray.data.status import is_ok
from emo_ray.progress import say
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import ChatAnswer, Usage

VERSION = 1
_PARTS = {"frames": "frames", "sound": "sound", "text": "transcripts"}
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of what is sent
        pa.field("status", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("prompt_tokens", "answer_tokens", "attempts")),
    ]
)


def settings(config: Config, labels: Sequence[str]) -> dict[str, Any]:
    """The settings that decide an answer beside the clip. The URL does not: a model may move."""
    names = ("model", "label_prompt", "parts", "frames", "frame_px", "max_answer_tokens", "request")
    values = {name: getattr(config.annotate, name) for name in names}
    return {**values, "labels": list(labels), "temperature": answer_log.TEMPERATURE, "version": VERSION}


def ask_labels(config: Config, prepared: Prepared, clips: Sequence[Clip]) -> tuple[Path, pa.Table, Usage]:
    """The table of labels of these clips that have any of `annotate.parts` (SCHEMA), asking for what is missing.

    Raises ValueError where the endpoint is not there or refuses every request.
    """
    from emo_ray.stages.chat.asking import ask  # these two import openai, which only asking needs
    from emo_ray.stages.chat.clip_questions import ClipQuestions

    folder, _ = answer_log.folder_of(cluster.store_root(config), "chat_labels", settings(config, prepared.labels))
    place_of, digest_of = _places(config, prepared, clips)
    answers = answer_log.read(folder, ChatAnswer)
    usage = Usage()
    missing = {digest: place for digest, place in place_of.items() if digest not in answers}
    if missing:
        parts = " and ".join(name for part, name in _PARTS.items() if part in config.annotate.parts)
        say(f"{parts} of {len(missing)} clips go to {config.annotate.url}")
        questions = ClipQuestions(missing, config.annotate, prepared.labels)
        new_answers, usage = ask(config, config.annotate, folder, questions, usage)
        answers |= new_answers
    rows = [_row(clip_id, answers[digest]) for clip_id, digest in sorted(digest_of.items())]
    metadata = clip_tables.metadata_of(prepared.labels)
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))
    path = folder / f"labels-{store.digest(table.to_pydict(), prepared.labels)}.parquet"
    if not store.exists(path):
        parquet.write(path, table, parquet.LIGHT_ROWS)
    return path, table, usage


def _places(config: Config, prepared: Prepared, clips: Sequence[Clip]) -> tuple[dict[str, Any], dict[str, str]]:
    """Where each distinct question's clip lies, by digest; and the digest of each clip's question.

    A clip without any of the parts is in neither.
    """
    from emo_ray.stages.chat.clip_questions import Place

    text_of = {clip.clip_id: (clip.text or "").strip() or None for clip in clips}
    columns = ["clip_id", "part", "video_status", "video_digest", "audio_status", "audio_digest"]
    sent = set(config.annotate.parts)
    place_of: dict[str, Place] = {}
    digest_of: dict[str, str] = {}
    for row in prepared.ledger.select(columns).to_pylist():
        clip_id = row["clip_id"]
        if clip_id not in text_of:
            continue
        text = text_of[clip_id] if "text" in sent else None
        has_frames, has_sound = (
            "frames" in sent and is_ok(row["video_status"]),
            "sound" in sent and is_ok(row["audio_status"]),
        )
        if text is None and not has_frames and not has_sound:
            continue
        frames, sound = (
            (row[f"{name}_digest"] or clip_id) if has else None
            for name, has in (("video", has_frames), ("audio", has_sound))
        )
        digest = digest_of[clip_id] = store.digest(text, frames, sound)
        place_of.setdefault(digest, Place(prepared.shards / row["part"], clip_id, text, has_frames, has_sound))
    return place_of, digest_of


def _row(clip_id: str, answer: ChatAnswer) -> dict[str, Any]:
    fields = asdict(answer)
    label = fields.pop("reading")
    return {"clip_id": clip_id, "label": label if answer.status == "ok" else None, **fields}


def score(table: pa.Table, truth_of: Mapping[str, str]) -> dict[str, int]:
    """How many clips whose class people know were labelled, and how many of these as people do."""
    labels = dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    answered = {clip_id: truth for clip_id, truth in truth_of.items() if labels.get(clip_id) is not None}
    return {"clips": len(answered), "right": sum(labels[clip_id] == truth for clip_id, truth in answered.items())}


def read(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """The label of each clip that has one, of a table that `ask_labels` wrote.

    Raises ValueError where it is no such table, or one of other classes.
    """
    if not store.exists(path):
        raise ValueError(
            f"pseudo.chat_labels: found no file {path}, expected the table that jobs/annotate.py annotate.task=label "
            "prints the path of"
        )
    table = parquet.read(path)
    table_labels = clip_tables.labels_of(table)
    if set(table_labels) != set(labels):
        raise ValueError(
            f"pseudo.chat_labels: found labels of the classes {', '.join(table_labels)} in {path}, expected "
            f"{', '.join(labels)}: run jobs/annotate.py annotate.task=label with this corpus"
        )
    rows = zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True)
    return {clip_id: label for clip_id, label in rows if label is not None}


def of_teacher(config: Config, labels: Sequence[str]) -> dict[str, str] | None:
    """A chat model's label of each clip that has one; None where it is no teacher.

    Raises ValueError where clips should agree with it and there is no table.
    """
    path = config.pseudo.chat_labels
    if path is None and config.pseudo.agree_with == "chat":
        raise ValueError(
            "found pseudo.agree_with=chat without pseudo.chat_labels, expected the table that jobs/annotate.py "
            "annotate.task=label prints the path of"
        )
    return None if path is None else read(Path(path), labels)
