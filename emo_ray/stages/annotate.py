"""annotate: a stronger model's reading of each transcript, from a chat endpoint to a table.

The stages after it make and use these readings by themselves where `annotate.url` is set.
"""

from emo_ray.config import Config
from emo_ray.reports.training import summary_table
from emo_ray.stages.corpus import texts_of
from emo_ray.stages.decoding.corpus import decode, plan_corpus
from emo_ray.stages.result import Result
from emo_ray.stages.transcripts import is_configured


def annotate(config: Config) -> Result:
    """Readings of every clip with a transcript that `config.data` names.

    Clips are decoded only where those without a transcript get one first.

    Raises ValueError without `annotate.url`, and where the endpoint is not there or refuses every request.
    """
    if config.annotate.url is None:
        raise ValueError(
            "found no annotate.url, expected an OpenAI-compatible endpoint such as http://127.0.0.1:8000/v1, and the "
            "key that it requires, if any, in OPENAI_API_KEY"
        )
    plan = plan_corpus(config)
    if is_configured(config):
        plan = decode(config, plan)
    readings = texts_of(config, plan, plan.clips).readings
    assert readings is not None, "there is an endpoint to ask"
    content = readings.content()
    table = summary_table("Clips by status of their reading", content["statuses"], "status")
    return Result(readings.path, content, [table])
