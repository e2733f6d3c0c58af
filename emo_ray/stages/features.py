"""features: the frozen encoders over a corpus (and a checkpoint's EmoVCLIP over its video), once per encoder."""

from pathlib import Path

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.inference.encoders import encoders_of, frozen_encoders, of_checkpoint
from emo_ray.reports.training import summary_table
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.encoding import external_tables
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.stages.result import Result


def features(config: Config) -> Result:
    """Features of every clip of the corpus: sound and text, and video where `checkpoint` names a model.

    With `tables.export` a copy of them for other tools is left there.
    """
    path = config.checkpoint and Path(config.checkpoint)
    if path:
        config = of_checkpoint(config, path)
    corpus = open_corpus(config, labelled_only=False)
    encoders = encoders_of(config, path, corpus.texts) if path else frozen_encoders(config, corpus.texts)
    folders = encode_corpus(config, corpus.prepared, encoders)
    content: dict = {name: str(folder) for name, folder in folders.items()}
    if config.tables.export:
        exported = external_tables.export(config.tables, folders, corpus.prepared.parts)
        content["exported"] = [str(target) for target in exported]
    table = summary_table(
        "feature tables", {name: folder.name for name, folder in folders.items()}, "modality", "folder"
    )
    lines = [f"exported: {target}" for target in content.get("exported", ())]
    return Result(cluster.store_root(config) / "features", content, [table], lines)
