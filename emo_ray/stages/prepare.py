"""prepare: clips on disk to a checked manifest, splits, decoded shards, and a list of bad media."""

from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import status
from emo_ray.data.prepared import BAD_MEDIA, MEDIA_NOTES
from emo_ray.reports.training import summary_table
from emo_ray.stages.corpus import speaker_offer
from emo_ray.stages.decoding.corpus import SHEET, prepare_corpus
from emo_ray.stages.decoding.inspection import count_bad_media
from emo_ray.stages.result import Result


def prepare(config: Config) -> Result:
    """Prepare the corpus that `config.data` names.

    Raises ValueError for a manifest that cannot be used; bad media are rows with a status and lines of bad_media.csv.
    """
    prepared = prepare_corpus(config)
    content = prepared.counts()
    statuses = {name: content[name] for name in MODALITIES}
    tables = [
        summary_table("Clips by split", content["splits"], "split"),
        summary_table("Clips by status", statuses, "modality"),
    ]
    lines = [*prepared.notes, *speaker_offer(config, prepared.clips)]
    if bad := sum(count_bad_media(prepared.ledger).values()):
        lines.append(f"media that could not be used ({bad}): {prepared.path / BAD_MEDIA}")
    notes = sum(status.has_note(text) for name in MODALITIES for text in prepared.ledger[f"{name}_status"].to_pylist())
    if notes:
        lines.append(f"media that are used and have a note ({notes}): {prepared.path / MEDIA_NOTES}")
    if store.exists(prepared.path / SHEET):
        lines.append(f"stills: {prepared.path / SHEET}")
    return Result(prepared.path, content, tables, lines)
