"""transcribe: clips without a transcript to a table of what is said in them.

The stages after it make and use these transcripts by themselves where `transcribe.model` is set.
"""

from collections.abc import Sequence
from typing import Any

import jiwer

from emo_ray import cluster
from emo_ray.config import Config, override
from emo_ray.data import status
from emo_ray.data.manifest import Clip
from emo_ray.data.transcripts import HALLUCINATION, OK, words
from emo_ray.reports.table import Table
from emo_ray.reports.training import summary_table
from emo_ray.stages.chat.answer_log import Usage
from emo_ray.stages.decoding.corpus import decode, plan_corpus
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.result import Result
from emo_ray.stages.transcripts import recognise, transcripts_of


def transcribe(config: Config) -> Result:
    """Transcripts of every clip with sound and without text that `config.data` names.

    With `transcribe.compare` those with text are transcribed as well, and the rates of errors are counted; their texts
    stay as they are. Raises ValueError without `transcribe.model`, and where an endpoint refuses every request.
    """
    if config.transcribe.model is None:
        raise ValueError(
            "found no transcribe.model, expected a recogniser: a model of transformers (openai/whisper-small) or, with "
            "transcribe.url, the name of an endpoint's"
        )
    config = override(config, {"modalities": ["video", "audio", "text"], "tables.text": ()})
    plan = decode(config, plan_corpus(config))
    written = transcripts_of(config, plan, plan.clips)
    statuses = dict(written.statuses) if written else {}
    with_text = sum(clip.has_words for clip in plan.clips)
    content: dict[str, Any] = {
        "clips": len(plan.clips),
        "given": with_text,
        "transcribed": statuses.get(OK, 0),
        "without sound": len(plan.clips) - with_text - sum(statuses.values()),
        "statuses": statuses,
    }
    tables = [summary_table("Clips without a transcript by what was heard", statuses, "status")] if statuses else []
    if config.transcribe.compare:
        content["compared"] = compared(config, plan, written.usage if written else Usage())
        tables.append(_table(content["compared"]))
    lines = [f"{with_text} of {len(plan.clips)} clips have a transcript of their own, which stays"]
    return Result(written.path if written else cluster.store_root(config) / "transcripts", content, tables, lines)


def compared(config: Config, plan: ShardPlan, usage: Usage) -> dict[str, Any]:
    """The rates of errors in words and in characters over clips that have a transcript and were understood."""
    heard = recognise(config, plan, {clip.clip_id for clip in plan.clips}, "given", usage)
    rows = heard.table.to_pylist() if heard else []
    # What is taken for a hallucination is compared too: it is what the recogniser wrote.
    text_of = {row["clip_id"]: row["text"] for row in rows if row["status"].startswith((OK, HALLUCINATION))}
    return {"statuses": dict(status.kinds(row["status"] for row in rows)), **error_rates(plan.clips, text_of)}


def error_rates(clips: Sequence[Clip], text_of: dict[str, str]) -> dict[str, Any]:
    """Word and character error rate of texts by clip_id against the clips' own, over lower-case words alone."""
    pairs = [
        (words(clip.text), words(text_of[clip.clip_id])) for clip in clips if clip.text and clip.clip_id in text_of
    ]
    pairs = [(reference, hypothesis) for reference, hypothesis in pairs if reference]
    if not pairs:
        return {"clips": 0, "word error rate": None, "character error rate": None}
    references, hypotheses = ([" ".join(text) for text in texts] for texts in zip(*pairs, strict=True))
    return {
        "clips": len(pairs),
        "word error rate": jiwer.wer(references, hypotheses),
        "character error rate": jiwer.cer(
            [text.replace(" ", "") for text in references], [text.replace(" ", "") for text in hypotheses]
        ),
    }


def _table(content: dict[str, Any]) -> Table:
    shown = {name: "" if value is None else f"{value:.3g}" for name, value in content.items() if name != "statuses"}
    return summary_table("Transcripts against those of the corpus", shown, "", "value")
