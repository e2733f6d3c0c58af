"""The demo's corpus: people with faces, voices and sentences, drawn by rules.

Reading order: canvas, face, scene, candid, voice, text, corpus.
"""

from emo_ray.data.synthetic.corpus import (
    CLIPS_PER_SPEAKER,
    CONFUSIONS,
    DURATION_S,
    LABELS,
    VERSION,
    Script,
    ceiling,
    confusion,
    digest_parts,
    render,
    write,
    write_scripts,
)

__all__ = [
    "CLIPS_PER_SPEAKER",
    "CONFUSIONS",
    "DURATION_S",
    "LABELS",
    "VERSION",
    "Script",
    "ceiling",
    "confusion",
    "digest_parts",
    "render",
    "write",
    "write_scripts",
]
