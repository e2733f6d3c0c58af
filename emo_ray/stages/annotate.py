"""annotate: what a chat endpoint says of a corpus, as a table: a reading of each transcript, or a label of each clip.

The stages after it make and use readings by themselves where `annotate.url` is set; labels are one more teacher for
jobs/pseudo_label.py.
"""

from dataclasses import asdict

from emo_ray.config import Config
from emo_ray.data import status
from emo_ray.reports.training import summary_table
from emo_ray.stages.chat import chat_labels
from emo_ray.stages.corpus import open_corpus, texts_of
from emo_ray.stages.decoding.corpus import decode, plan_corpus
from emo_ray.stages.result import Result
from emo_ray.stages.transcripts import is_configured


def annotate(config: Config) -> Result:
    """Readings of every clip with a transcript that `config.data` names, or labels of the clips that need one.

    For readings, clips are decoded only where those without a transcript get one first.

    Raises ValueError without `annotate.url`, and where the endpoint is not there or refuses every request.
    """
    if config.annotate.url is None:
        raise ValueError(
            "found no annotate.url, expected an OpenAI-compatible endpoint such as http://127.0.0.1:8000/v1, and the "
            "key that it requires, if any, in OPENAI_API_KEY"
        )
    if config.annotate.task == "label":
        return _label(config)
    plan = plan_corpus(config)
    if is_configured(config):
        plan = decode(config, plan)
    readings = texts_of(config, plan, plan.clips).readings
    assert readings is not None, "there is an endpoint to ask"
    content = readings.content()
    table = summary_table("Clips by status of their reading", content["statuses"], "status")
    return Result(readings.path, content, [table])


def _label(config: Config) -> Result:
    """Labels of unlabelled clips, and of validation clips, by which it is seen how often they are right."""
    corpus = open_corpus(config, labelled_only=False)
    prepared = corpus.prepared
    if len(prepared.labels) < 2:
        raise ValueError(
            f"{config.data.manifest}: found {len(prepared.labels)} classes, expected at least two to choose from: name "
            "them with data.labels"
        )
    chosen = [clip for clip in prepared.clips if clip.split in ("unlabelled", "validation")]
    path, table, usage = chat_labels.ask_labels(config, prepared, corpus.texts.in_clips(chosen))
    truth_of = {clip.clip_id: clip.label for clip in chosen if clip.label is not None}
    score = chat_labels.score(table, truth_of)
    statuses = dict(status.kinds(table["status"].to_pylist()))
    content = {"clips": len(table), "statuses": statuses, "validation": score, **asdict(usage)}
    lines = (
        [f"{len(chosen) - len(table)} clips have none of what annotate.parts sends"] if len(table) < len(chosen) else []
    )
    if score["clips"]:
        share = 100 * score["right"] / score["clips"]
        lines.append(f"of {score['clips']} labelled validation clips it gave {share:.1f} % the label that people gave")
    lines.append("to pseudo-label with it: jobs/pseudo_label.py ... pseudo.agree_with=chat pseudo.chat_labels=TABLE")
    return Result(path, content, [summary_table("Clips by status of their label", statuses, "status")], lines)
