"""Where faults are made: stores as jobs left them, results of undisturbed jobs, and a chat endpoint on loopback."""

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from emo_ray.experiments.chaos.chat_server import Chat
from emo_ray.experiments.chaos.contents import contents, differences
from emo_ray.experiments.chaos.faults import check
from emo_ray.experiments.chaos.nodes import Nodes
from emo_ray.experiments.chaos.running import ROOT, Ended, Running, command_of, end_processes, finished

# A job -> the job whose store it starts from: so each spends its time on work of its own.
BEFORE = {
    "prepare": None,
    "annotate": "prepare",
    "features": "prepare",
    "train": "features",
    "evaluate": "train",
    "predict": "train",
    "pseudo_label": "train",
    "self_train": "train",
    "tune": "features",
    "crossvalidate": "features",
}
RECIPE = """\
synthetic: {train_clips: 24, validation_clips: 12, test_clips: 12, unlabelled_clips: 12}
media: {clips_per_part: 12}
emovclip: {clip: mini_clip.json, weights: mini_clip.safetensors, batch_size: 12}
audio: {encoder: functionals}
text: {encoder: ngrams}
fusion: {passes_per_epoch: 2}
train: {epochs: 3, num_workers: 0, use_gpu: "no"}
rounds: {most: 1}
pseudo: {floor: 0.0, max_bad_fraction: 1.0}
annotate: {model: m, prompt: "In {language}: {transcript}", concurrency: 2, backoff_s: 0.1, timeout_s: 5.0}
tune: {trials: 4, grace_epochs: 1, space: {fusion.lr: {loguniform: [1.0e-4, 1.0e-2]}}}
"""
_ANSWER_S = 0.1  # that the endpoint takes for an answer, so that a job may be killed while it waits


class Workshop(AbstractContextManager):
    """A temporary folder with a store at one path, so that nothing differs by the store's place.

    `dice` draws whatever is random; a fault gets it anew, by the seed and its name.
    """

    def __init__(self, seed: int, words: Sequence[str] = (), variables: Mapping[str, str] | None = None):
        """Every job gets these words, and these variables in its environment."""
        self.words, self.variables = words, variables or {}
        self.seed, self.dice = seed, random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # Ray's sockets need short paths
        self.store, self.scratch, self._after = (self.folder / name for name in ("store", "scratch", "after"))
        self.recipe = self.folder / "recipe.yaml"
        self.recipe.write_text(RECIPE, encoding="utf-8")
        self.chat = Chat(delay_s=_ANSWER_S)
        threading.Thread(target=self.chat.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.seconds: dict[str, float] = {}  # that each undisturbed job took
        self._contents: dict[str, dict[str, str]] = {}
        self._inside = ExitStack()
        self._on_nodes: tuple[Workshop, Nodes] | None = None

    def __exit__(self, *_: object) -> None:
        self._inside.close()
        self.chat.shutdown()
        self.chat.server_close()
        end_processes(str(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self, name: str) -> None:
        """Begin a fault: end what the one before left, empty its folders, and seed the dice."""
        end_processes(str(self.folder))
        self.dice = random.Random(f"{self.seed} {name}")
        for folder in (self.store, self.scratch, self.folder / "ray"):
            shutil.rmtree(folder, ignore_errors=True)
        self.scratch.mkdir()

    def open_store(self, job: str) -> None:
        """Make the store what it is before a job."""
        before = BEFORE[job]
        if before is not None:
            self.undisturbed(before)
        shutil.rmtree(self.store, ignore_errors=True)
        if before is not None:
            shutil.copytree(self._after / before, self.store, symlinks=True)

    def undisturbed(self, job: str) -> dict[str, str]:
        """The contents of the store after an undisturbed job, which is run once. What is in the store is lost."""
        if job not in self._contents:
            self.open_store(job)
            self.seconds[job] = finished(self.run(job)).seconds
            self._contents[job] = contents(self.store)
            self._after.mkdir(exist_ok=True)
            shutil.copytree(self.store, self._after / job, symlinks=True)
        return self._contents[job]

    def after(self, job: str) -> Path:
        """Make the store what it is after an undisturbed job; its path."""
        self.undisturbed(job)
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self._after / job, self.store, symlinks=True)
        return self.store

    def start(
        self,
        job: str,
        *words: str,
        before: Sequence[str] = (),
        prepare: Callable[[], object] | None = None,
        recipe: Path | None = None,
    ) -> Running:
        """Start a job on the store. Later words win over the job's usual ones.

        `before`: a program that starts it, with arguments. `prepare`: called in its process before it starts. `recipe`:
        in place of the tiny one.
        """
        ray_folder = self.folder / "ray"
        ray_folder.mkdir(exist_ok=True)
        environment = {"RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(ROOT), **self.variables}
        usual = [str(recipe or self.recipe), f"store.root={self.store}", *self.words, *self._usual_words(job)]
        return Running(command_of(job, [*usual, *words], environment, before), self.scratch, prepare)

    def run(
        self,
        job: str,
        *words: str,
        before: Sequence[str] = (),
        prepare: Callable[[], object] | None = None,
        recipe: Path | None = None,
    ) -> Ended:
        """A job from start to end: see `start`."""
        return self.start(job, *words, before=before, prepare=prepare, recipe=recipe).end()

    def on_nodes(self, count: int, cpus: int) -> "tuple[Workshop, Nodes]":
        """A workshop whose jobs train with two workers on a cluster of some nodes, and the cluster. Both are kept."""
        if self._on_nodes is None:
            nodes = self._inside.enter_context(Nodes(Path(self._inside.enter_context(TemporaryDirectory()))))
            for _ in range(count):
                nodes.add(cpus)
            words = ("train.num_workers=2", "train.placement=spread")
            inside = self._inside.enter_context(Workshop(self.seed, words, nodes.variables))
            inside.clear("nodes")
            self._on_nodes = inside, nodes
        return self._on_nodes

    def goes_on(self, job: str) -> str:
        """Run the job again. Raises Unexpected unless it ends as an undisturbed one does."""
        finished(self.run(job))
        return self.is_equal(job)

    def is_equal(self, job: str) -> str:
        """Check that the store is what it is after an undisturbed job, which must have been run before."""
        difference = differences(self._contents[job], contents(self.store))
        check(not difference, f"not as undisturbed: the store {difference}")
        return "rerun equal"

    def model(self) -> Path:
        """The folder of the model in the store."""
        return next(path for path in sorted((self.store / "checkpoints").glob("model-*")))

    def _usual_words(self, job: str) -> list[str]:
        if job == "annotate":
            return [f"annotate.url={self.chat.url}"]
        if job in ("predict", "pseudo_label"):
            return [f"checkpoint={self.model()}"]
        return ["data.folds=2"] if job == "crossvalidate" else []


def copied_clips(workshop: Workshop, name: str, count: int = 4) -> Path:
    """A folder of this name in the scratch folder with some synthetic videos; the store is emptied."""
    workshop.after("prepare")
    folder = workshop.scratch / name
    folder.mkdir()
    for clip in sorted(workshop.store.glob("corpora/*/clips/*.mp4"))[:count]:
        shutil.copy(clip, folder)
    shutil.rmtree(workshop.store)
    return folder
