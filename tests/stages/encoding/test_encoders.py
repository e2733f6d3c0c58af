"""Which encoders a config or a checkpoint uses, and under which names their features lie."""

from pathlib import Path

import numpy as np
import pytest

from emo_ray.config import override
from emo_ray.stages.encoding.encoders import encoders_of, frozen_encoders, of_checkpoint, table_encoder
from emo_ray.stages.encoding.feature_tables import encode_corpus

pytestmark = pytest.mark.usefixtures("ray_session")


def test_another_encoder_has_another_folder(tiny_config, prepared, folders):
    other = frozen_encoders(override(tiny_config, {"text.ngram_features": 32}))
    other_folders = encode_corpus(tiny_config, prepared, other, prepared.parts[:1])
    assert other_folders["text"] != folders["text"]
    assert other_folders["audio"] == folders["audio"]


def test_a_checkpoint_brings_its_encoders_and_its_seed_and_the_caller_the_places(tiny_config, evaluated):
    path = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    changes = {"seed": 5, "text.ngram_features": 32, "store.root": "elsewhere", "train.use_gpu": "no"}
    config = of_checkpoint(override(tiny_config, changes), path)
    assert (config.seed, config.text, config.audio) == (tiny_config.seed, tiny_config.text, tiny_config.audio)
    assert (config.store.root, config.train.use_gpu) == ("elsewhere", "no")
    digest_of, tiny_digest_of = (
        {encoder.modality: encoder.digest for encoder in encoders_of(any_config, path)}
        for any_config in (config, tiny_config)
    )
    assert set(digest_of) == {"video", "audio", "text"}
    assert digest_of == tiny_digest_of


def test_tables_stand_in_the_place_of_encoders(tiny_config, evaluated, tmp_path):
    np.savez(tmp_path / "hubert.npz", clip=np.ones(3))
    config = override(tiny_config, {"tables.audio": str(tmp_path / "hubert.npz")})
    spec = table_encoder(config, "audio")
    assert (spec.reads, spec.sources) == ([], (str(tmp_path / "hubert.npz"),))
    by_modality = {encoder.modality: encoder for encoder in frozen_encoders(config)}
    assert by_modality["audio"].digest == spec.digest
    assert by_modality["text"].reads == ["text"]
    assert set(by_modality) == {"audio", "text"}
