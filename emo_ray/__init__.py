"""emo_ray: multimodal emotion recognition with vision-language prompting and modality dropout, on Ray.

import emo_ray

model = emo_ray.load("artifacts/checkpoints/model-KEY")
model.predict("clip.mp4").label
"""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, at its first use: what it needs takes seconds to import, and most of emo_ray does without."""
    if name == "load":
        from emo_ray.inference.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
