"""Who speaks in the clips of a job, for models that standardise features by speaker (`tables.standardise=speaker`).

A speaker's statistics are over all clips that the job predicts, so the features of all are made before the first
clip is predicted, and kept in the store.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from emo_ray import store
from emo_ray.config import Config
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.inference.classifier import ClipSpeakers
from emo_ray.inference.encoders import EncoderSpec
from emo_ray.models.checkpoint_files import SPEAKERS
from emo_ray.models.identity import SPEAKER_VERSION
from emo_ray.progress import say
from emo_ray.stages.decoding.corpus import decode
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.encoding.feature_tables import encode_corpus, load
from emo_ray.training import speaker_scaling

_PARTS_AT_ONCE = 64


def planned(path: Path, plan: ShardPlan, clip_ids: Collection[str]) -> ClipSpeakers | None:
    """The speakers of these clips of a plan, not yet with the clips' statistics, which the digest stands for.

    None for a model in a checkpoint folder that does not standardise by speaker.
    """
    scaling = speaker_scaling.read(path)
    if scaling is None:
        return None
    speaker_of = {clip.clip_id: clip.speaker for clip in plan.clips if clip.clip_id in clip_ids}
    named = sorted((clip_id, name) for clip_id, name in speaker_of.items() if name is not None)
    digest = store.digest(SPEAKER_VERSION, store.digest_path(path / SPEAKERS), named, sorted(plan.parts))
    return ClipSpeakers(scaling, speaker_of, digest)


def measured(
    config: Config, speakers: ClipSpeakers, plan: ShardPlan, encoders: Sequence[EncoderSpec]
) -> ClipSpeakers:  # fmt: skip
    """The speakers with statistics of their clips, which are decoded and encoded where they are not yet."""
    speaker_of = speakers.speaker_of
    nameless = sum(name is None for name in speaker_of.values())
    if nameless:
        say(
            f"tables.standardise=speaker: {nameless} of {len(speaker_of)} clips have no speaker to be standardised by "
            "(data.columns.speaker names the column)"
        )
    if nameless == len(speaker_of):
        return speakers
    decode(config, plan)
    folders = encode_corpus(config, plan, encoders)

    def batches() -> Iterator[FeatureBatch]:
        for start in range(0, len(plan.parts), _PARTS_AT_ONCE):
            parts = plan.parts[start : start + _PARTS_AT_ONCE]
            yield from_features(load(plan, folders, parts, speaker_of.keys()))

    return replace(speakers, scaling=speakers.scaling.with_clips(batches()))
