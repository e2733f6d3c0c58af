"""Seeds of everything that training draws, derived from the config's one seed.

Each use has a stream of its own, so that the order of clips in an epoch has nothing to do with its dropout, and two
configs with neighbouring seeds have nothing in common. Derivation is numpy's SeedSequence.
"""

import hashlib
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a seed is for."""

    ORDER = 0  # of clips that are in memory, in an epoch
    NOISE = 1  # dropout and modality dropout of an epoch and rank
    SHUFFLE_BUFFER = 2  # of clips that are streamed, in an epoch
    AUGMENTATION = 3  # of a clip's frames, in an epoch


def derived_seed(seed: int, stream: Stream, *place: int, bits: int = 63) -> int:
    """The seed of a stream at a place, such as an epoch: an integer in [0, 2**bits)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *place))
    return int(sequence.generate_state(1, np.uint64)[0]) >> (64 - bits)


def number_of(clip_id: str) -> int:
    """A number that stands for a clip in the place of a seed: the same in every process and corpus."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest())
