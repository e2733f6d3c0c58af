"""What a job works on: decoded clips, and where `annotate.url` is set the readings of their transcripts.

A job opens its corpus once and hands it to every stage, so that nothing is decoded or asked for twice and all asking
stays within one budget.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from emo_ray.config import Config
from emo_ray.data.prepared import Prepared
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.readings import Readings, readings_of
from emo_ray.stages.decoding.corpus import prepare_corpus


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, and readings of the transcripts of those clips that the job needs; None: no readings."""

    prepared: Prepared
    readings: Readings | None = None

    def readings_for(self, clip_ids: Collection[str]) -> Readings | None:
        """The readings as these clips see them."""
        return None if self.readings is None else self.readings.only(clip_ids)


def open_corpus(config: Config, labelled_only: bool = True) -> Corpus:
    """Prepare the corpus of `config.data`, and make the readings of its clips, or of the labelled ones alone.

    A job that encodes any unlabelled clip needs the readings of all: whole shard parts are encoded, and a part holds
    either labelled or unlabelled clips. Raises ValueError for a manifest that cannot be used, and where a chat endpoint
    refuses every request.
    """
    prepared = prepare_corpus(config)
    clips = [clip for clip in prepared.clips if clip.label is not None or not labelled_only]
    return Corpus(prepared, readings_of(config, clips))


def for_config(corpus: Corpus, config: Config, clip_ids: Collection[str]) -> Corpus:
    """The corpus with readings of these clips as another config of the same job asks for them, in the same budget.

    A teacher's own config is an example: the teacher may have been trained with another model's readings.
    """
    readings = corpus.readings
    if config.annotate.url is None:
        return replace(corpus, readings=None)
    clips = [clip for clip in corpus.prepared.clips if clip.clip_id in clip_ids]
    if readings is not None and readings.settings == answer_log.settings(config.annotate) and readings.covers(clips):
        return corpus
    return replace(corpus, readings=readings_of(config, clips, readings.usage if readings else None))
