"""The joint phase: EmoVCLIP and the head trained on together, to one checkpoint that all else takes."""

import pytest
import torch
from safetensors.torch import load_file

from emo_ray import store
from emo_ray.config import override
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.checkpoint_files import CARD, EMOVCLIP, WEIGHTS
from emo_ray.reports.scorecard import REPORT
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.fitting.plan import resolve_training


def test_a_joint_model_is_evaluated_as_any_and_its_epochs_follow_those_of_the_head(trained, tiny_config):
    """The head's rate is too high at first, so that the joint epochs, at a tenth of it, are better."""
    config = override(tiny_config, {"train.joint_epochs": 2, "train.heads": 2, "fusion.lr": 0.3})
    report = evaluate(config).path
    plan = resolve_training(config, open_corpus(config))
    assert plan.video_path == resolve_training(tiny_config, open_corpus(tiny_config)).video_path
    meta = store.read_meta(plan.path)
    assert [metrics["epoch"] for metrics in meta["history"]] == [0, 1, 2, 3]
    assert meta["best"]["fusion"]["epoch"] >= 2, "a test of what is kept needs a better joint epoch"
    before, after = (load_file(folder / WEIGHTS) for folder in (plan.video_path, plan.path / EMOVCLIP))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(name.startswith("prompts") for name in changed)
    assert not any(name.startswith(("context", "logit_scale", "frozen")) for name in changed)
    assert "together with the head" in (plan.path / EMOVCLIP / CARD).read_text()
    checkpoint_files.check(plan.path)
    checkpoint.load_emovclip(plan.path / EMOVCLIP)
    content = store.read_json(report / REPORT)
    assert content["checkpoint"] == plan.path.name
    assert len(content["histories"]["fusion"]) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modalities": ["audio", "text"]}, "no EmoVCLIP"),
        ({"fusion.kind": "linear"}, r"fusion\.kind=linear"),
        ({"fusion.context.before": 1}, r"fusion\.context"),
        ({"tables.standardise": "speaker"}, r"tables\.standardise"),
    ],
)
def test_what_cannot_be_trained_together_is_named(trained, tiny_config, changes, words):
    config = override(tiny_config, {"train.joint_epochs": 1, **changes})
    with pytest.raises(ValueError, match=rf"train\.joint_epochs=1 with .*{words}"):
        resolve_training(config, open_corpus(config))
