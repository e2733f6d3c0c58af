"""Which of the frames that are stored of a clip a model sees: T of N, one of each of T equal stretches.

Both are functions of a clip_id and N to the places of the frames. Where N is T, they name all of them.
"""

from dataclasses import dataclass

from emo_ray.data.degradation import clip_rng
from emo_ray.data.media import spread


@dataclass(frozen=True)
class Middles:
    """The frame in the middle of each stretch."""

    frames: int

    def __call__(self, clip_id: str, stored: int) -> list[int]:
        """The places, in rising order."""
        return spread(stored, self.frames)


@dataclass(frozen=True)
class Draw:
    """A frame drawn from each stretch; the seed, the clip_id and the name of the draw decide it."""

    frames: int
    seed: int
    name: str

    def __call__(self, clip_id: str, stored: int) -> list[int]:
        """The places, in rising order."""
        starts = [i * stored // self.frames for i in range(self.frames + 1)]
        return clip_rng(self.seed, clip_id, self.name).integers(starts[:-1], starts[1:]).tolist()
