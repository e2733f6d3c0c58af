"""The tiny corpus with the features of its sound and text, for the tests of encoding."""

import pytest

from emo_ray.inference.encoders import frozen_encoders
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.feature_tables import encode_corpus


@pytest.fixture(scope="session")
def prepared(tiny_config, ray_session):
    return prepare_corpus(tiny_config)


@pytest.fixture(scope="session")
def folders(tiny_config, prepared):
    """The folder of each modality's features."""
    return encode_corpus(tiny_config, prepared, frozen_encoders(tiny_config))
