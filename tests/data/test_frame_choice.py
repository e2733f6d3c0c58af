"""Which frames a model sees of those that are stored: one of each stretch, drawn or in its middle."""

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.data.batch import FeatureBatch, joint_from_shards, video_from_shards
from emo_ray.data.frame_choice import Draw, Middles
from emo_ray.data.shards import _jpeg

sizes = st.integers(1, 12).flatmap(lambda frames: st.tuples(st.just(frames), st.integers(frames, 40)))


@given(sizes, st.integers(0, 99), st.text(max_size=5))
def test_each_stretch_gives_one_frame(size, seed, clip_id):
    frames, stored = size
    for choose in (Middles(frames), Draw(frames, seed, "epoch 3")):
        places = choose(clip_id, stored)
        assert len(places) == frames
        for i, place in enumerate(places):
            assert int(i * stored / frames) <= place < max((i + 1) * stored / frames, int(i * stored / frames) + 1)
        assert choose(clip_id, stored) == places
        if frames == stored:
            assert places == list(range(frames))


def test_draws_differ_by_clip_epoch_and_seed_and_reach_every_frame():
    draws = {
        (seed, epoch, clip): tuple(Draw(4, seed, f"epoch {epoch}")(f"clip {clip}", 16))
        for seed in range(3)
        for epoch in range(5)
        for clip in range(10)
    }
    assert len(set(draws.values())) > 100  # of 256 in 150 draws
    assert {place for places in draws.values() for place in places} == set(range(16))


def test_a_batch_holds_the_chosen_frames():
    grey = [_jpeg(np.full((16, 16, 3), value, np.uint8), 95) for value in (0, 60, 120, 180)]
    row = {"clip_id": "a", "frames": grey} | dict.fromkeys(("video_status", "audio_status", "text_status"), "ok")
    table = pa.Table.from_pylist([row])
    assert video_from_shards(table).frames_BTCHW.float().mean((0, 2, 3, 4)).tolist() == [0, 60, 120, 180]
    seen = video_from_shards(table, choose=Middles(2)).frames_BTCHW
    assert seen.float().mean((0, 2, 3, 4)).tolist() == [60, 180]


def test_clips_without_video_are_black_beside_features():
    ok = dict.fromkeys(("video_status", "audio_status", "text_status"), "ok")
    bright = [_jpeg(np.full((16, 16, 3), 180, np.uint8), 95)] * 2
    rows = [{"clip_id": "a", "frames": None, **ok, "video_status": "missing"}, {"clip_id": "b", "frames": bright, **ok}]
    present_BM = torch.tensor([[True, True, True], [False, True, True]])
    clips = FeatureBatch(
        clip_ids=("b", "a"), present_BM=present_BM, label_B=torch.tensor([4, 5]), features={"audio": torch.eye(2)}
    )
    for shown in (rows, rows[:1]):  # a batch of which no clip has video too
        batch = joint_from_shards(pa.Table.from_pylist(shown), clips, Middles(2), (2, 3, 16, 16))
        assert batch.label_B.tolist() == [5, 4][: len(shown)]
        assert batch.frames_BTCHW.float().mean((1, 2, 3, 4)).tolist() == [0, 180][: len(shown)]
        assert torch.equal(batch.features["audio"], torch.eye(2).flip(0)[: len(shown)])
