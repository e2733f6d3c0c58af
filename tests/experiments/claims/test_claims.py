"""claims: every trial has a file of its own, is made once, and gives the same again."""

import json
import shutil
from pathlib import Path

import pytest

from emo_ray.config import override
from emo_ray.experiments.claims.claims import CONTENT, claims
from emo_ray.experiments.claims.comparisons import trials_of
from emo_ray.reports import claims as claims_report

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def config(tiny_config):
    # The world behind this seed is the tiny corpus itself, which is prepared already.
    own = {
        "claims.worlds": 1,
        "claims.seeds": 1,
        "claims.self_training_seeds": 1,
        "claims.dropout_rates": [0.5],
        "train.epochs": 1,
        "synthetic.seed": -1,
    }
    return override(tiny_config, own)


@pytest.fixture(scope="module")
def claimed(config):
    return claims(config)


def made_trials(config):
    return {p.name: p.stat().st_mtime_ns for p in (Path(config.store.root) / "claims/trials").iterdir()}


@pytest.mark.slow  # every trial of the claims, if small ones
def test_every_claim_has_its_tables_pictures_and_markdown(claimed, config):
    assert {table["claim"] for table in claimed.content["tables"]} == {1, 2, 3, 4, 5}
    cells = [cell for table in claimed.content["tables"] for row in table["rows"] for cell in row["cells"]]
    assert all(0 <= cell["mean"] <= 1 for cell in cells)
    assert (claimed.path / claims_report.PAGE).stat().st_size > 10_000
    assert "EmoVCLIP − zero-shot CLIP" in (claimed.path / claims_report.MARKDOWN).read_text()
    assert len(made_trials(config)) == len(trials_of(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.manifest", "clips.csv"),
        ("data.corpus", "ravdess"),
        ("train.use_gpu", "yes"),
        ("emovclip.start_from", "folder"),
        ("fusion.start_from", "folder"),
        ("train.pseudo_labels", "folder"),
        ("annotate.url", "http://127.0.0.1:1/v1"),
    ],
)
def test_what_claims_are_not_measured_on_is_refused(tiny_config, key, value):
    with pytest.raises(ValueError, match=f"found .*{value}.*expected"):
        claims(override(tiny_config, {key: value}))


@pytest.mark.slow
def test_killed_in_the_middle_it_makes_only_what_is_missing_and_ends_with_the_same(claimed, config):
    before, content = made_trials(config), json.loads((claimed.path / CONTENT).read_text())
    lost = sorted(before)[::5]
    for name in lost:
        shutil.rmtree(Path(config.store.root) / "claims/trials" / name)
    shutil.rmtree(claimed.path)
    assert claims(config).content == content
    after = made_trials(config)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == set(lost)
