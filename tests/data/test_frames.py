"""Frames decoded once for many epochs are those that are decoded every time, within a bound of memory."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import torch

from emo_ray.data.batch import video_from_shards
from emo_ray.data.frame_choice import Draw
from emo_ray.data.frames import KeptFrames, decoded
from emo_ray.data.shards import _jpeg

SIDE = 16
FRAME_BYTES = 3 * SIDE * SIDE


def jpegs(count, seed=0):
    generator = np.random.default_rng(seed)
    return [_jpeg(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), 90) for _ in range(count)]


def equal(frames, others):
    return len(frames) == len(others) and all(map(torch.equal, frames, others))


def are_same(frames, others):
    """Whether they lie in the same memory, so that they were decoded once."""
    return [frame.data_ptr() == other.data_ptr() for frame, other in zip(frames, others, strict=True)]


def test_a_picture_is_decoded_once_whichever_clip_shows_it():
    pictures = jpegs(5)
    keep = KeptFrames(10**6)
    for order in ([0, 1, 1], [1, 0], [4, 3, 2, 3]):
        asked = [pictures[i] for i in order]
        assert equal(keep(asked), decoded(asked))
    assert all(are_same(keep(pictures), keep(pictures)))
    assert keep.bytes == sum(FRAME_BYTES + len(picture) for picture in pictures)


def test_memory_has_a_bound_and_what_has_no_room_is_decoded_each_time():
    pictures = jpegs(6)
    max_bytes = sum(FRAME_BYTES + len(picture) for picture in pictures[:3])
    keep = KeptFrames(max_bytes)
    first, second = keep(pictures), keep(pictures)
    assert equal(first, second)
    assert equal(first, decoded(pictures))
    assert are_same(first, second) == [True] * 3 + [False] * 3
    assert keep.bytes == max_bytes
    none = KeptFrames(0)
    assert equal(none(pictures), decoded(pictures))
    assert none.bytes == 0


def test_threads_share_it_within_the_bound():
    pictures = jpegs(200)
    keep = KeptFrames(100 * FRAME_BYTES)
    expected = decoded(pictures)
    with ThreadPoolExecutor(8) as threads:
        each = list(threads.map(lambda _: keep(pictures), range(8)))
    assert all(equal(frames, expected) for frames in each)
    assert 0 < keep.bytes <= keep.max_bytes


def test_a_process_gets_it_empty_and_one_for_all_epochs():
    pictures = jpegs(3)
    keep = KeptFrames(10**6)
    keep(pictures)
    first, second = pickle.loads(pickle.dumps([keep, keep]))
    assert first is second
    assert (first.bytes, first.max_bytes) == (0, 10**6)
    assert equal(first(pictures), decoded(pictures))


def test_batches_of_many_epochs_are_the_same_with_and_without_it():
    ok = dict.fromkeys(("video_status", "audio_status", "text_status"), "ok")
    table = pa.Table.from_pylist([{"clip_id": f"c{i}", "frames": jpegs(8, seed=i), **ok} for i in range(4)])
    keep = KeptFrames(12 * FRAME_BYTES)  # fewer than there are
    for epoch in range(4):
        draw = Draw(3, 7, f"epoch {epoch}")
        shown = video_from_shards(table, choose=draw, decode=keep).frames_BTCHW
        assert torch.equal(shown, video_from_shards(table, choose=draw).frames_BTCHW)
        shown.zero_()  # a batch is its owner's, whatever is kept
