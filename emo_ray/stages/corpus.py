"""What a job works on: decoded clips, transcripts of those without text, and readings of the transcripts.

A job opens its corpus once and hands it to every stage, so that nothing is decoded, transcribed or asked for twice and
all asking stays within one budget.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from emo_ray.config import Config
from emo_ray.data.dialogues import windows_of, with_neighbours
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import Prepared
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.readings import readings_of
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.decoding.shard_plan import Decoded
from emo_ray.stages.encoding.text_sources import NO_TEXTS, TextSources
from emo_ray.stages.transcripts import deciding, transcripts_of

_NAMED_SHARE, _CLIPS_OF_SPEAKER = 0.8, 20  # of clips, and clips each on average, for which speakers are worth a line


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, with transcripts and readings of those clips that the job needs."""

    prepared: Prepared
    texts: TextSources = NO_TEXTS

    def texts_for(self, clip_ids: Collection[str]) -> TextSources:
        """Transcripts and readings as these clips see them."""
        return self.texts.only(clip_ids)


def open_corpus(config: Config, labelled_only: bool = True) -> Corpus:
    """Prepare the corpus of `config.data`, and make the texts of its clips, or of the labelled ones alone.

    A job that encodes any unlabelled clip needs the texts of all: whole shard parts are encoded, and a part holds
    either labelled or unlabelled clips. Raises ValueError for a manifest that cannot be used, and where an endpoint
    refuses every request.
    """
    fewest = 0 if not labelled_only else 2 if config.checkpoint is None else 1
    prepared = prepare_corpus(config, fewest)
    needed = encoded_with(config, prepared, prepared.labelled_ids) if labelled_only else None
    clips = [clip for clip in prepared.clips if needed is None or clip.clip_id in needed]
    return Corpus(prepared, texts_of(config, prepared, clips))


def training_corpus(config: Config) -> Corpus:
    """The corpus that training with a config needs: without unlabelled clips where there are no pseudo-labels."""
    return open_corpus(config, labelled_only=config.train.pseudo_labels is None)


def encoded_with(config: Config, prepared: Prepared, clip_ids: Collection[str]) -> set[str]:
    """The clips whose texts count where features of some are made: these, and all where a neighbour has no label.

    Whole shard parts are encoded, and a part holds either labelled or unlabelled clips.
    """
    label_of = {clip.clip_id: clip.label for clip in prepared.clips}
    needed = with_neighbours(clip_ids, windows_of(prepared.clips, config.fusion.context.offsets))
    are_labelled = all(label_of.get(clip_id) is not None for clip_id in needed.difference(clip_ids))
    return needed if are_labelled else set(label_of)


def texts_of(config: Config, decoded: Decoded, clips: Iterable[Clip], before: TextSources = NO_TEXTS) -> TextSources:
    """Transcripts of these clips where they have none and `transcribe` is set, then readings where `annotate` is.

    What the job has `before` is taken where it was made with the same settings and covers these clips; else what is
    made stays in one budget with it.
    """
    clips = list(clips)
    written, readings = before.transcripts, before.readings
    if written is None or written.settings != deciding(config) or not written.covers(clips):
        written = transcripts_of(config, decoded, clips, written.usage if written else None)
    if not config.annotate.asks_for_readings:
        return TextSources(written)
    clips = written.in_clips(clips) if written else clips
    is_same = readings is not None and readings.settings == answer_log.settings(config.annotate)
    if readings is None or not is_same or not readings.covers(clips):
        readings = readings_of(config, clips, readings.usage if readings else None)
    return TextSources(written, readings)


def speaker_offer(config: Config, clips: Collection[Clip]) -> list[str]:
    """A line that offers standardisation by speaker, where it is off and the clips name speakers with enough clips."""
    clips_of = Counter(clip.speaker for clip in clips if clip.speaker is not None)
    is_enough = clips_of.total() >= max(_NAMED_SHARE * len(clips), _CLIPS_OF_SPEAKER * len(clips_of))
    if config.tables.standardise == "speaker" or len(clips_of) < 2 or not is_enough:
        return []
    mean = clips_of.total() / len(clips_of)
    return [
        f"{len(clips_of)} speakers have {mean:.0f} clips each on average: tables.standardise=speaker takes what is "
        "their own off the features (docs/small-corpora.md)"
    ]


def for_config(corpus: Corpus, config: Config, clip_ids: Collection[str]) -> Corpus:
    """The corpus with transcripts and readings of these clips as another config of the same job makes them.

    A teacher's own config is an example: the teacher may have been trained with another model's readings.
    """
    clips = [clip for clip in corpus.prepared.clips if clip.clip_id in clip_ids]
    return replace(corpus, texts=texts_of(config, corpus.prepared, clips, corpus.texts))
