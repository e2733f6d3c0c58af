"""crosscorpus: a model of each of several corpora, tested on every corpus, over the classes that both have."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emo_ray import cluster, durable, store
from emo_ray.config import Config, override
from emo_ray.inference.encoders import of_checkpoint
from emo_ray.reports import crosscorpus as report_page
from emo_ray.reports.crosscorpus import CrossCorpusReport, Pair
from emo_ray.stages.compare import judged_rows
from emo_ray.stages.corpus import Corpus, training_corpus
from emo_ray.stages.evaluate import REPORT, JudgedClips, evaluate, measured
from emo_ray.stages.result import Result
from emo_ray.stages.train import train_model


def crosscorpus(config: Config) -> Result:
    """Train on each of `crosscorpus.corpora`, and test each model on all of them; what is made already is read.

    Raises ValueError for fewer than two corpora.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: a model of each corpus is trained")
    changes_of = config.crosscorpus.corpora
    if len(changes_of) < 2:
        raise ValueError(
            f"crosscorpus.corpora: found {len(changes_of)}, expected two corpora or more, such as "
            "'crosscorpus.corpora={a: {data.manifest: a.csv}, b: {data.manifest: b.csv}}'"
        )
    configs = {name: override(config, {**changes, "crosscorpus.corpora": {}}) for name, changes in changes_of.items()}
    opened = {name: _opened(name, corpus_config) for name, corpus_config in configs.items()}  # all before any training
    models = {name: train_model(corpus_config, opened[name]) for name, corpus_config in configs.items()}
    pairs: list[Pair] = []
    for trained_on, (path, home) in models.items():
        for tested_on, (_, corpus) in models.items():
            shared = [label for label in home.prepared.labels if label in corpus.prepared.labels]
            report: Path | None
            if trained_on == tested_on:
                report = evaluate(configs[trained_on], home).path
            else:
                report = _foreign(configs[tested_on], path, home, corpus, shared)
            pairs.append(_pair(trained_on, tested_on, shared, report))
    labels = {name: list(corpus.prepared.labels) for name, (_, corpus) in models.items()}
    content: CrossCorpusReport = {"corpora": list(models), "labels": labels, "pairs": pairs}
    folder = cluster.store_root(config) / "reports" / f"corpora-{store.digest(content)}"

    def fill(temporary: Path) -> None:
        durable.write_json(temporary / REPORT, content)
        report_page.write(content, temporary)

    store.artefact(folder, {"kind": "report", "corpora": list(models)}, fill)
    lines = [f"pages: {folder / report_page.PAGE}, {folder / report_page.MARKDOWN}"]
    return Result(folder, dict(content), report_page.tables(content), lines)


def _opened(name: str, config: Config) -> Corpus:
    """The corpus of a name. Raises ValueError, with that name, where it cannot be used."""
    try:
        return training_corpus(config)
    except store.DamagedFile:
        raise  # it names its file
    except ValueError as error:
        raise ValueError(f"crosscorpus.corpora, {name}: {error}") from error


def _foreign(config: Config, path: Path, home: Corpus, corpus: Corpus, shared: Sequence[str]) -> Path | None:
    """The report of a model on the clips of another corpus that have a class of both; None where these are too few."""
    index_of = {label: k for k, label in enumerate(home.prepared.labels) if label in shared}
    label_of = {clip.clip_id: index_of[clip.label] for clip in corpus.prepared.clips if clip.label in index_of}
    if len(shared) < 2 or not label_of:
        return None
    config = of_checkpoint(override(config, {"checkpoint": str(path), "evaluate.floors": False}), path)
    clips = [
        clip if clip.label in index_of else replace(clip, label=None, split="unlabelled")
        for clip in corpus.prepared.clips
    ]
    prepared = replace(corpus.prepared, labels=home.prepared.labels, clips=tuple(clips))
    return measured(config, path, replace(corpus, prepared=prepared), JudgedClips("all", label_of))


def _pair(trained_on: str, tested_on: str, shared: Sequence[str], folder: Path | None) -> Pair:
    """The scores of a report's clips when the model may choose among the shared classes alone."""
    from emo_ray.training.metrics import metrics

    about: Pair = {
        "trained_on": trained_on,
        "tested_on": tested_on,
        "classes": list(shared),
        "scores": {},
        "n": 0,
        "report": None if folder is None else folder.name,
    }
    if folder is None:
        return about
    labels, table, probability_BK = judged_rows(folder)
    columns = [labels.index(name) for name in shared]
    label_B = np.array([shared.index(name) for name in table["label"].to_pylist()])
    return {**about, "scores": metrics(probability_BK[:, columns], label_B), "n": len(label_B)}
