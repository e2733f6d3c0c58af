"""JPEGs of frames as tensors: decoded at every use, or once where there is room.

Legend: C H W image.
"""

from collections.abc import Callable, Sequence
from threading import Lock

import torch

from emo_ray.data.lean_import import without_compiler

Decode = Callable[[Sequence[bytes]], list[torch.Tensor]]  # JPEGs -> of each its uint8 (C, H, W), RGB


def decoded(jpegs: Sequence[bytes]) -> list[torch.Tensor]:
    """The pictures of JPEGs. A third of Pillow's time, and other threads run meanwhile."""
    with without_compiler():  # here, as not every process has to import it
        from torchvision.io import ImageReadMode, decode_jpeg

    buffers = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    frames_CHW: list[torch.Tensor] = decode_jpeg(buffers, ImageReadMode.RGB)
    return frames_CHW


class KeptFrames:
    """`decoded` for many epochs: frames stay in memory until they take `max_bytes`; what comes later is decoded anew.

    Threads may share it. Where it is pickled its frames stay behind, so that each process decodes its own.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self._frame_of: dict[bytes, torch.Tensor] = {}
        self._lock = Lock()

    def __call__(self, jpegs: Sequence[bytes]) -> list[torch.Tensor]:
        """The pictures of JPEGs, which are others' too: not to be changed."""
        new = list(dict.fromkeys(jpeg for jpeg in jpegs if jpeg not in self._frame_of))
        fresh = dict(zip(new, decoded(new), strict=True)) if new else {}
        for jpeg, frame_CHW in fresh.items():
            self._keep(jpeg, frame_CHW)
        return [fresh[jpeg] if jpeg in fresh else self._frame_of[jpeg] for jpeg in jpegs]

    def _keep(self, jpeg: bytes, frame_CHW: torch.Tensor) -> None:
        size = len(jpeg) + frame_CHW.nbytes
        with self._lock:
            if jpeg not in self._frame_of and self.bytes + size <= self.max_bytes:
                self._frame_of[jpeg] = frame_CHW
                self.bytes += size

    def __reduce__(self) -> tuple[type["KeptFrames"], tuple[int]]:
        return KeptFrames, (self.max_bytes,)
