"""The actor that encodes: its features are what the encoder gives for the same clips."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from emo_ray.data.batch import audio_from_shards, video_from_shards
from emo_ray.models import audio, checkpoint, checkpoint_files
from emo_ray.stages.encoding.encoders import video_encoder
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
