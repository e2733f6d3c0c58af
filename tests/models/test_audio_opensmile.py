"""openSMILE's feature sets: what is said without the package, and what they give with it."""

import sys

import pytest
import torch

from emo_ray.config import Config, override
from emo_ray.config.model_settings import Audio
from emo_ray.data.batch import AudioBatch, unlabelled
from emo_ray.models import audio, identity

SETS = {"opensmile:eGeMAPSv02": 88, "opensmile:ComParE_2016": 6373}
WAVES = [0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples)) for samples in (959, 960, 16_000)]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a distribution of that name and of any version, of which only the version is read."""

    def install(version):
        folder = tmp_path / version / f"opensmile-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: opensmile\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(folder.parent))

    return install


def batch_of(*waves):
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    present_BM = torch.ones(len(waves), 3, dtype=torch.bool)
    names = tuple(map(str, range(len(waves))))
    return AudioBatch(
        clip_ids=names,
        present_BM=present_BM,
        label_B=unlabelled(len(waves)),
        audio_BS=padded,
        audio_lengths_B=lengths,
    )


@pytest.mark.parametrize("encoder", ["opensmile", "opensmile:", "opensmile:eGeMAPS", "opensmile:egemapsv02"])
def test_other_feature_sets_are_refused_with_those_that_exist(encoder):
    with pytest.raises(ValueError, match=rf"'{encoder}'.*opensmile:eGeMAPSv02.*opensmile:ComParE_2016"):
        override(Config(), {"audio.encoder": encoder})


@pytest.mark.parametrize("encoder", SETS)
def test_without_the_package_the_extra_and_its_licence_are_named(encoder, monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # nothing is installed
    for needs_it in (identity.audio_digest, audio.build):
        with pytest.raises(ValueError, match=rf"{encoder}.*emo_ray\[opensmile\].*non-commercial"):
            needs_it(Audio(encoder=encoder))


def test_the_digest_follows_the_set_and_the_version_of_the_package(package):
    digests = []
    for version in ("2.5.0", "2.6.0"):
        package(version)
        digests += [identity.audio_digest(Audio(encoder=encoder)) for encoder in SETS]
    assert len(set(digests)) == 4
    assert identity.audio_digest(Audio()) not in digests


def test_a_reader_of_results_is_told_the_licence():
    config = override(Config(), {"audio.encoder": "opensmile:eGeMAPSv02"})
    (note,) = identity.licence_notes(config)
    assert "opensmile:eGeMAPSv02" in note
    assert "non-commercial" in note
    for silent in ({"audio.encoder": "functionals"}, {"modalities": ["video", "text"]}, {"tables.audio": "a.npz"}):
        assert identity.licence_notes(override(config, silent)) == []


@pytest.mark.parametrize("encoder", SETS)
def test_features_do_not_depend_on_neighbours_and_need_60_ms(encoder):
    pytest.importorskip("opensmile", reason="the extra emo_ray[opensmile] is not installed: its licence is not free")
    encode = audio.build(Audio(encoder=encoder))
    actual = encode(batch_of(*WAVES))
    assert actual.shape == (3, encode.dim) == (3, SETS[encoder])
    assert actual.isfinite().all(dim=1).tolist() == [False, True, True]
    torch.testing.assert_close(actual[1:], torch.cat([encode(batch_of(wave)) for wave in WAVES[1:]]))
