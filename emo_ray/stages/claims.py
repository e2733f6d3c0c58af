"""claims: what the paper claims, in miniature, over several synthetic worlds and seeds.

A trial is a Ray task with a result file of its own, named by everything that decides it: a run that is killed goes on
where it stopped, and another dropout rate trains no EmoVCLIP again. Worlds are the unit of every standard error: the
seeds of one world share its clips, so they are averaged first.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from emo_ray import claims_report, cluster, store, tracking
from emo_ray.config import Config, flatten, override
from emo_ray.models import emovclip
from emo_ray.progress import console, progress, say
from emo_ray.stages import comparisons, trials
from emo_ray.stages.comparisons import OURS, Found, Scores, Trial, claimed, planned
from emo_ray.stages.features import frozen_encoders
from emo_ray.stages.prepare import prepare

VERSION = 1  # raise it when the same trial gives other scores
CONTENT, SCORES = "claims.json", "scores.json"


@dataclass(frozen=True)
class Claimed:
    """A folder with the tables of the claims, as JSON, page, pictures and Markdown."""

    path: Path
    content: dict

    def summary(self) -> dict:
        """The content of claims.json."""
        return self.content

    def show(self) -> None:
        """The tables, for people."""
        for table in claims_report.tables(self.content):
            console.print(table)
        say(f"pictures and details: {self.path / claims_report.PAGE}")


def claims(config: Config) -> Claimed:
    """Measure every claim on the worlds behind the config's own. Trials that were made before are read, not made again.

    Trials run on CPU cores, one each. Raises ValueError for a corpus or a device that claims are not measured on.
    """
    if config.data.manifest is not None or config.data.corpus not in ("auto", "synthetic"):
        raise ValueError(
            f"found data.manifest={config.data.manifest} and data.corpus={config.data.corpus}, expected neither: "
            "claims are measured on synthetic worlds; jobs/evaluate.py measures on a corpus"
        )
    if config.train.use_gpu == "yes":
        raise ValueError("found train.use_gpu=yes, expected auto or no: claims are many small trials on CPU cores")
    cluster.connect(config)
    root = cluster.store_root(config)
    found, trial_digests = _measure(config, root)
    key = store.digest(comparisons.VERSION, config.claims.model_dump(), trial_digests)
    folder = root / "claims" / key
    if not store.is_complete(folder):
        content = claimed(config, found)
        with store.writing(folder, {"kind": "claims", "version": VERSION}) as temporary:
            store.write_text(temporary / CONTENT, json.dumps(content, indent=1, ensure_ascii=False))
            claims_report.write_html(content, temporary)
    content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
    run = tracking.open_run(config, root, key, folder.name)
    run.metrics({f"claims/{d['claim']}/{i}": d["mean"] for i, d in enumerate(content["differences"])})
    run.artifacts(folder, "claims")
    run.finish()
    return Claimed(folder, content)


def _measure(config: Config, root: Path) -> tuple[Found, list[str]]:
    """The scores of every trial, name -> world -> seed, and the digests of the trials."""
    rows: list[tuple[str, int, ray.ObjectRef]] = []
    digests: list[str] = []
    for world in range(config.claims.worlds):
        behind = config.synthetic.seed + 1 + world  # the config's own world is where settings were chosen
        own = override(config, {"synthetic.seed": behind, "synthetic.unlabelled_clips": 0})
        prepared = prepare(own)
        loaded = ray.put(trials.load_world(own, prepared))
        whole: dict[int, ray.ObjectRef] = {}  # seed -> EmoVCLIP
        for name, trial in planned(config).items():
            for seed in range(config.claims.seeds if trial.seeded else 1):
                changed = override(own, {**trial.changes, "seed": config.seed + seed})
                digests.append(_digest(trial, changed, prepared.path.name))
                folder = root / "claims" / "trials" / digests[-1]
                task = _run.remote(trial, changed, loaded, folder, whole[seed] if trial.kind == "fusion" else None)
                if name == OURS:
                    whole[seed] = task
                rows.append((name, world, task))
    waiting = [task for *_, task in rows]
    with progress("measuring claims", len(waiting), "trials") as advance:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)  # raises what the trial raised
            advance(len(done))
    found: Found = {name: [[] for _ in range(config.claims.worlds)] for name in planned(config)}
    for name, world, task in rows:  # in the order of seeds
        found[name][world].append(ray.get(task)[0])
    return found, digests


@ray.remote(num_cpus=1)
def _run(
    trial: Trial, config: Config, world: trials.World, folder: Path, video: tuple | None
) -> tuple[Scores, dict[str, np.ndarray] | None]:
    """One trial, made or found; that of a whole EmoVCLIP comes with the features of all clips."""
    torch.set_num_threads(1)  # one trial per core; and sums over several threads come in any order
    features = folder / "features.safetensors"
    if not store.is_complete(folder):
        with threadpool_limits(1):
            scores, made = _make(trial, config, world, video and video[1])
        meta = {"kind": "trial", "trial": trial.kind, "changes": trial.changes, "option": trial.option}
        with store.writing(folder, meta) as temporary:
            store.write_text(temporary / SCORES, json.dumps(scores))
            if made is not None:
                save_file(made, temporary / features.name)
    return json.loads((folder / SCORES).read_text("utf-8")), load_file(features) if features.exists() else None


def _make(trial: Trial, config: Config, world: trials.World, features: dict | None) -> tuple[Scores, dict | None]:
    if trial.kind == "zero_shot":
        return trials.zero_shot(world, config), None
    if trial.kind == "probe":
        return trials.probe(world, trial.option), None
    if trial.kind == "video":
        return trials.video(world, config)
    return trials.fusion(world, features, config, trial.option), None


def _digest(trial: Trial, config: Config, corpus: str) -> str:
    """Of everything that decides a trial's result; what is in the code is in VERSION."""
    parts = {"zero_shot": [], "probe": [], "video": ["seed", "emovclip", "train"]}
    sections = parts.get(trial.kind, ["seed", "emovclip", "train", "fusion", "audio", "text"])
    deciding = {key: value for key, value in flatten(config).items() if key.split(".")[0] in sections}
    encoders = [encoder.digest for encoder in frozen_encoders(config)] if trial.kind == "fusion" else []
    return store.digest(VERSION, trial.kind, trial.option, corpus, emovclip.frozen_digest(config), encoders, deciding)
