"""What a training run goes on from after a kill: between two epochs, or between two steps of one."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from emo_ray.models.trainable_state import load_trained
from emo_ray.store import DamagedFile
from emo_ray.training.optimizer import load_moments
from emo_ray.training.seeds import Stream, derived_seed
from emo_ray.training.weight_average import WeightAverage

STATE = "state.pt"
_PARTS = ("epoch", "model", "average", "optimizer", "best", "shares")


@dataclass
class EpochSums:
    """What a rank adds up over the steps of an epoch."""

    loss: torch.Tensor  # () on the model's device, so that no step waits for it
    clips: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0  # of these, without a batch to work on

    def add(self, loss: torch.Tensor, clips: int) -> None:
        """Count a step over so many clips, whose mean loss this is."""
        self.loss += loss * clips
        self.clips += clips
        self.steps += 1


class RunState:
    """The state of a rank's run: `epoch`, the one under way, its `sums` so far, and the best epoch before it.

    `best` is what `loop.fit` returns. Weights, their average and the optimiser's moments are those of the objects that
    it was made with.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, rank: int, ranks: int
    ):
        self.model, self.optimizer, self.average, self.rank, self.ranks = model, optimizer, average, rank, ranks
        self.device = next(model.parameters()).device
        self.epoch = 0
        self.best: dict[str, Any] | None = None
        self._share: Mapping[str, Any] | None = None  # of an epoch that was under way
        self.sums = self._sums()

    def restore(self, folder: Path) -> None:
        """Put a written state back. Raises DamagedFile for a file that is cut or damaged."""
        state = load_state(folder)
        load_trained(self.model, state["model"])
        load_moments(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load(state["average"])
        self.epoch, self.best = state["epoch"] + 1, state["best"]
        self._share = None if state["shares"] is None else self._share_of(state["shares"])

    def _share_of(self, shares: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """This rank's share of an epoch that was under way with so many ranks.

        Where there are more or fewer now, rank 0 goes on with the sums of all of them, and noise is drawn anew. Ranks
        share out the clips otherwise then, so this epoch shows some of them twice and some not at all.
        """
        if len(shares) == self.ranks:
            return shares[self.rank]
        names = ("loss", "clips") if self.rank == 0 else ()
        return {**shares[0], "loss": 0.0, "clips": 0, "generators": None} | {
            name: sum(share[name] for share in shares) for name in names
        }

    @contextmanager
    def epoch_under_way(self, seed: int) -> Iterator[None]:
        """Seed torch's generators by seed, epoch and rank alone, and restore them after the block.

        In an epoch that a restored run goes on with, generators and sums are as they were at its last step.
        """
        share, self._share = self._share, None
        self.sums = self._sums(share)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derived_seed(seed, Stream.NOISE, self.epoch, self.rank))
            if share is not None and share["generators"] is not None:
                self._set_generators(share["generators"])
            yield

    def share(self) -> dict[str, Any]:
        """This rank's sums and random generators, which `written` wants of every rank."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {**asdict(self.sums), "loss": float(self.sums.loss), "generators": generators}

    @contextmanager
    def written(
        self, weights: Mapping[str, torch.Tensor], shares: Sequence[Mapping[str, Any]] | None = None
    ) -> Iterator[Path | None]:
        """A folder that holds the state while the block runs, on rank 0; None on the others.

        `shares` are those of all ranks inside the epoch; None: the epoch has ended.
        """
        if self.rank != 0:
            yield None
            return
        with TemporaryDirectory() as folder:
            state = {
                "epoch": self.epoch if shares is None else self.epoch - 1,  # the last that has ended
                "model": weights,
                "average": self.average.state() if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "shares": shares,
            }
            torch.save(state, Path(folder) / STATE)
            yield Path(folder)

    def _sums(self, share: Mapping[str, Any] | None = None) -> EpochSums:
        """The sums of a share; zeros without one."""
        sums = {} if share is None else {name: value for name, value in share.items() if name != "generators"}
        return EpochSums(**{**sums, "loss": torch.tensor(sums.get("loss", 0.0), device=self.device)})

    def _set_generators(self, states: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


def load_state(folder: Path) -> dict[str, Any]:
    """The state that a run has written in a folder, on the CPU.

    Raises DamagedFile for a file that is cut or damaged.
    """
    path = folder / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: state[name] for name in _PARTS}
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, LookupError, ValueError) as error:
        raise DamagedFile(path, f"no state of a training run: {type(error).__name__}") from error
