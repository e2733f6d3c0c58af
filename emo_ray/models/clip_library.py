"""open_clip, imported in half its time: whoever needs it takes it from here."""

from emo_ray.data.lean_import import without_compiler

with without_compiler():
    import open_clip

__all__ = ["open_clip"]
