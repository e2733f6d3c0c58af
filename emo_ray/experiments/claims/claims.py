"""claims: what the paper claims, in miniature, over several synthetic worlds and seeds.

A trial is a Ray task with a result file of its own, named by everything that decides it: a run that is killed goes on
where it stopped, and another dropout rate trains no EmoVCLIP again. Worlds are the unit of every standard error: the
seeds of one world share its clips, so they are averaged first.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import ray
from safetensors.numpy import load_file, save_file

from emo_ray import cluster, store, tracking
from emo_ray.config import Config, flatten, override
from emo_ray.data.prepared import Prepared
from emo_ray.experiments.claims import comparisons, self_training, trials
from emo_ray.experiments.claims.comparisons import OURS, Found, Scores, Trial, claimed, seeds_of, trials_of
from emo_ray.models.identity import frozen_digest
from emo_ray.progress import progress, show
from emo_ray.reports import claims as claims_report
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.encoders import frozen_encoders
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.training.in_memory import one_thread

VERSION = 2  # raise it when the same trial gives other scores; 2: a head draws all its noise at once
CONTENT, SCORES, FEATURES = "claims.json", "scores.json", "features.safetensors"
_REFUSED = ("emovclip.start_from", "fusion.start_from", "train.pseudo_labels")
# The parts of the config that decide each kind of trial, beside the corpus and the frozen CLIP.
_DECIDING = {
    "zero_shot": (),
    "probe": (),
    "video": ("seed", "emovclip", "train"),
    "fusion": ("seed", "emovclip", "train", "fusion", "audio", "text"),
    "self_training": ("seed", "emovclip", "train", "fusion", "audio", "text", "pseudo"),
}


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
        page = f"pictures and details: {self.path / claims_report.PAGE}"
        show(claims_report.tables(self.content), [*claims_report.notes(self.content), page])


def claims(config: Config) -> Claimed:
    """Measure every claim on the worlds behind the config's own. Trials that were made before are read, not made again.

    Trials run on CPU cores, one each. Raises ValueError for a corpus or a device that claims are not measured on.
    """
    if config.data.manifest is not None or config.data.corpus not in ("auto", "synthetic"):
        raise ValueError(
            f"found data.manifest={config.data.manifest} and data.corpus={config.data.corpus}, expected neither: "
            "claims are measured on synthetic worlds; jobs/evaluate.py measures on a corpus"
        )
    for key in _REFUSED:
        if (given := flatten(config)[key]) is not None:
            raise ValueError(f"found {key}={given}, expected none: claims train anew, on clips of their own")
    if config.annotate.url is not None:
        raise ValueError(f"found annotate.url={config.annotate.url}, expected none: claims are made without readings")
    if config.train.use_gpu == "yes":
        raise ValueError("found train.use_gpu=yes, expected auto or no: claims are many small trials on CPU cores")
    cluster.connect(config)
    root = cluster.store_root(config)
    trials_made = _measure(config, root)
    key = store.digest(comparisons.VERSION, config.claims.model_dump(), [folder.name for folder in trials_made])
    folder = root / "claims" / key
    if not store.is_complete(folder):
        content = claimed(config, _found(config, trials_made))
        with store.writing(folder, {"kind": "claims", "version": VERSION}) as temporary:
            store.write_text(temporary / CONTENT, json.dumps(content, indent=1, ensure_ascii=False))
            claims_report.write(content, temporary)
    content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
    run = tracking.open_run(config, root, key, folder.name)
    run.metrics({f"claims/{d['claim']}/{i}": d["mean"] for i, d in enumerate(content["differences"])})
    run.artifacts(folder, "claims")
    run.finish()
    return Claimed(folder, content)


def _found(config: Config, trials_made: dict[Path, tuple[str, int]]) -> Found:
    found: Found = {name: [[] for _ in range(config.claims.worlds)] for name in trials_of(config)}
    for folder, (name, world) in trials_made.items():
        found[name][world].append(json.loads((folder / SCORES).read_text("utf-8")))
    return found


def _measure(config: Config, root: Path) -> dict[Path, tuple[str, int]]:
    """Make the trials that are not there; the folder of each, with its name and world, seeds in order."""
    made: dict[Path, tuple[str, int]] = {}
    tasks: dict[Path, ray.ObjectRef] = {}
    for world in range(config.claims.worlds):
        behind = config.synthetic.seed + 1 + world  # the config's own world is where settings were chosen
        own = override(config, {"synthetic.seed": behind, "synthetic.unlabelled_clips": 0})
        prepared = prepare_corpus(own)
        loaded = None
        whole: dict[int, Path] = {}  # seed -> EmoVCLIP
        for name, trial in trials_of(config).items():
            for seed in range(seeds_of(trial, config)):
                changed = override(own, {**trial.changes, "seed": config.seed + seed})
                folder = root / "claims" / "trials" / _digest(trial, changed, prepared.path.name)
                made[folder] = name, world
                if name == OURS:
                    whole[seed] = folder
                if store.is_complete(folder):
                    continue
                if loaded is None:
                    folders = encode_corpus(own, prepared, frozen_encoders(own), trials.labelled_parts(prepared))
                    loaded = _load.remote(own, prepared, folders)
                video = whole[seed] if trial.kind == "fusion" else None
                tasks[folder] = _run.remote(trial, changed, loaded, folder, video, tasks.get(video))
    waiting = list(tasks.values())
    if waiting:
        with progress("measuring claims", len(waiting), "trials") as advance:
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)  # raises what the trial raised
                advance(len(done))
    return made


@ray.remote(num_cpus=1)
def _load(config: Config, prepared: Prepared, folders: dict[str, Path]) -> trials.World:
    with one_thread():
        return trials.load_world(config, prepared, folders)


@ray.remote(num_cpus=1)
def _run(trial: Trial, config: Config, world: trials.World, folder: Path, video: Path | None, made_video: None) -> None:
    """One trial into its folder. Fusion takes the features in the folder `video`, made when `made_video` is there."""
    with one_thread():
        features = load_file(video / FEATURES) if video else None
        scores, made = _make(trial, config, world, features)
    meta = {"kind": "trial", "trial": trial.kind, "changes": trial.changes, "option": trial.option}
    with store.writing(folder, meta) as temporary:
        store.write_text(temporary / SCORES, json.dumps(scores))
        if made is not None:
            save_file(made, temporary / FEATURES)


def _make(trial: Trial, config: Config, world: trials.World, features: dict | None) -> tuple[Scores, dict | None]:
    if trial.kind == "zero_shot":
        return trials.zero_shot(world, config), None
    if trial.kind == "probe":
        return trials.probe(world, trial.option), None
    if trial.kind == "video":
        return trials.video(world, config)
    if trial.kind == "self_training":
        return self_training.self_training(world, config, int(trial.option[0])), None
    return trials.fusion(world, features, config, trial.option), None


def _digest(trial: Trial, config: Config, corpus: str) -> str:
    """Of everything that decides a trial's result; what is in the code is in VERSION."""
    flat = {key: value for key, value in flatten(config).items() if key not in _REFUSED}
    flat["train.num_workers"] = config.train.shares
    deciding = {key: value for key, value in flat.items() if key.split(".")[0] in _DECIDING[trial.kind]}
    if trial.kind != "self_training":
        deciding = {key: value for key, value in deciding.items() if not key.startswith("train.pseudo_")}
    encoders = [encoder.digest for encoder in frozen_encoders(config)] if "audio" in _DECIDING[trial.kind] else []
    return store.digest(VERSION, trial.kind, trial.option, corpus, frozen_digest(config), encoders, deciding)
