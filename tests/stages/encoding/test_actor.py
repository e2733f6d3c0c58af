"""The actor that encodes: its features are what the encoder gives for the same clips."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from faults import UNREADABLE
from feature_forms import npy

from emo_ray.config import override
from emo_ray.config.media_settings import Media
from emo_ray.data import shards
from emo_ray.data.batch import audio_from_shards, video_from_shards
from emo_ray.data.manifest import Clip
from emo_ray.inference.encoders import table_encoder, video_encoder
from emo_ray.models import audio, checkpoint, checkpoint_files
from emo_ray.stages.encoding.actor import EncodeActor
from emo_ray.stages.encoding.feature_tables import encode_corpus

pytestmark = pytest.mark.usefixtures("ray_session")


def test_values_are_the_encoders_own(tiny_config, prepared, folders):
    part = prepared.parts[0]
    shard = pq.read_table(prepared.shards / part)
    rows = [i for i, status in enumerate(shard["audio_status"].to_pylist()) if status == "ok"]
    module = audio.build(tiny_config.audio)
    expected = module(audio_from_shards(shard.take(rows)))
    values_BD = np.stack(pq.read_table(folders["audio"] / part).take(rows)["feature"].to_numpy(zero_copy_only=False))
    torch.testing.assert_close(torch.from_numpy(values_BD), expected, atol=1e-4, rtol=1e-4)


def test_video_features_are_those_of_the_checkpoints_model(tiny_config, evaluated, prepared):
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    folder = encode_corpus(tiny_config, prepared, [video_encoder(model / checkpoint_files.EMOVCLIP)])["video"]
    part = prepared.parts[0]
    shard = pq.read_table(prepared.shards / part)
    rows = [i for i, status in enumerate(shard["video_status"].to_pylist()) if status == "ok"]
    expected = checkpoint.load_emovclip(model / checkpoint_files.EMOVCLIP)(video_from_shards(shard.take(rows)))
    values_BD = np.stack(pq.read_table(folder / part).take(rows)["feature"].to_numpy(zero_copy_only=False))
    torch.testing.assert_close(torch.from_numpy(values_BD), expected.features_BD.detach(), atol=1e-5, rtol=1e-4)


def test_a_part_whose_table_cannot_be_read_for_now_is_left_unmade(tiny_config, tmp_path):
    """The clip's file becomes one that gives an I/O error, after the encoder got its name."""
    clip_ids = ["a", "b"]
    clips = shards.identified([Clip(name, text="well") for name in clip_ids], "sample")
    shards.write_part(tmp_path / "part.parquet", clips, Media(), 32)
    folder = npy(tmp_path / "hubert", clip_ids, np.eye(2, 4, dtype=np.float32))
    encoder = table_encoder(override(tiny_config, {"tables.audio": str(folder)}), "audio")
    row = {"encoder": 0, "shard": str(tmp_path / "part.parquet"), "clips": 2, "encoded_in": pickle.dumps({})}
    actor = EncodeActor([encoder], patience_s=0.0, device="cpu")
    assert not actor({**row, "feature": str(tmp_path / "undisturbed.parquet")})["unread"]

    (folder / "b.npy").rename(tmp_path / "b.npy")
    (folder / "b.npy").symlink_to(UNREADABLE)
    answer = actor({**row, "feature": str(tmp_path / "feature.parquet")})
    assert list(json.loads(answer["unread"])) == [str(folder / "b.npy")]
    assert not (tmp_path / "feature.parquet").exists()

    (tmp_path / "b.npy").replace(folder / "b.npy")
    assert not actor({**row, "feature": str(tmp_path / "feature.parquet")})["unread"]
    assert (tmp_path / "feature.parquet").read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()
