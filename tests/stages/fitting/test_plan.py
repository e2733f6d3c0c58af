"""plan: what decides a result is in its name, what does not is not; and nothing is trained on what judges it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emo_ray import store
from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.models import checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.fitting.plan import resolve_training

pytestmark = pytest.mark.usefixtures("ray_session")

UNLABELLED = [f"unlabelled-{i:03d}" for i in range(40)]
SURE = (0.8, 0.1, 0.1)


@pytest.fixture(scope="module")
def plan_of(evaluated, tiny_config):
    """A function that plans the tiny job, trained already, with changes."""
    corpus = open_corpus(tiny_config)
    return lambda changes: resolve_training(override(tiny_config, changes), corpus)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.num_workers": 1},
        {"train.max_failures": 0},
        {
            "train.pseudo_targets": "hard",
            "train.pseudo_weight": 0.9,
            "train.pseudo_phases": "both",
        },  # there are no pseudo-labels
    ],
)
def test_what_changes_no_result_changes_no_name(plan_of, changes):
    plan, reference = plan_of(changes), plan_of({})
    assert (plan.path, plan.video_path) == (reference.path, reference.video_path)
    assert store.is_complete(plan.path)


@pytest.mark.parametrize(
    ("changes", "prompts_too"),
    [
        ({"fusion.modality_dropout": 0.1}, False),
        ({"text.ngram_features": 32}, False),
        ({"emovclip.lr": 0.5}, True),
        ({"train.num_workers": 2}, True),
        ({"train.epochs": 3}, True),
        ({"seed": 1}, True),
    ],
)
def test_what_changes_a_result_changes_its_name_and_no_other(plan_of, changes, prompts_too):
    plan, reference = plan_of(changes), plan_of({})
    assert plan.path != reference.path
    assert (plan.video_path != reference.video_path) is prompts_too


def test_modalities_that_a_model_lacks_are_neither_encoded_nor_trained_for(plan_of):
    whole, listened = plan_of({}), plan_of({"modalities": ["audio"]})
    assert (listened.video_path, [encoder.modality for encoder in listened.encoders]) == (None, ["audio"])
    assert listened.path != whole.path
    seen = plan_of({"modalities": ["video"]})
    assert (seen.video_path, seen.encoders) == (whole.video_path, ())
    assert plan_of({"modalities": ["text", "audio", "video"]}).path == whole.path


def test_what_training_starts_from_is_known_by_its_weights(plan_of, tmp_path):
    start = plan_of({}).path
    copied = shutil.copytree(start / checkpoint_files.EMOVCLIP, tmp_path / "copied")
    first, second = (plan_of({"emovclip.start_from": str(folder)}).video_path for folder in (start, copied))
    assert first == second != plan_of({}).video_path


def test_votes_decide_a_model_where_it_is_trained_towards_them(few_labels, tmp_path):
    clips = manifest.read(Path(few_labels.data.manifest))

    def plan(share, **changes):
        other_of = {"calm": "glad", "glad": "upset", "upset": "calm"}
        voted = [replace(c, votes=c.label and ((c.label, share), (other_of[c.label], 1.0))) for c in clips]
        manifest.write(tmp_path / "clips.parquet", voted)
        config = override(few_labels, {"data.manifest": str(tmp_path / "clips.parquet"), **changes})
        return resolve_training(config, open_corpus(config))

    towards = {"train.targets": "votes"}
    assert plan(3.0).path == plan(2.0).path != plan(3.0, **towards).path
    paths = [plan(2.0, **towards).path, plan(3.0, **towards).path]
    paths.append(plan(3.0, **towards, **{"train.vote_entropy_weight": 0.5}).path)
    assert len(set(paths)) == 3
    targets = plan(3.0, **towards).clips.targets
    assert {len(targets.target_of)} == {len(plan(3.0).clips.labelled)}
    with pytest.raises(ValueError, match=r"train\.targets=votes and no labelled clip"):
        resolve_training(override(few_labels, towards), open_corpus(few_labels))
    with pytest.raises(ValueError, match=r"fusion\.kind=svm"):
        plan(3.0, **towards, **{"fusion.kind": "svm"})


def test_a_student_is_known_by_what_its_pseudo_labels_say(
    few_teacher, few_labels, accepted_round, pseudo_round, tmp_path
):
    def name(folder, **changes):
        config = override(few_labels, {"train.pseudo_labels": str(folder), **changes})
        return resolve_training(config, few_teacher.corpus).path.name

    less_sure = dict.fromkeys(UNLABELLED[:30], (0.5, 0.3, 0.2))
    unsure = pseudo_round(tmp_path / "unsure", less_sure, few_teacher.prepared.labels, UNLABELLED)
    names = {
        few_teacher.path.name,
        name(accepted_round),
        name(unsure),
        name(accepted_round, **{"train.pseudo_weight": 0.2}),
        name(accepted_round, **{"train.pseudo_targets": "hard"}),
        name(accepted_round, **{"fusion.start_from": str(few_teacher.path)}),
    }
    assert len(names) == 6
    assert name(accepted_round) == name(shutil.copytree(accepted_round, tmp_path / "moved"))


def test_a_round_that_accepted_nothing_plans_the_model_of_labelled_clips(
    few_labels, few_teacher, pseudo_round, tmp_path
):
    none = pseudo_round(tmp_path / "none", dict.fromkeys(UNLABELLED, SURE), few_teacher.prepared.labels, [])
    config = override(few_labels, {"train.pseudo_labels": str(none)})
    assert resolve_training(config, few_teacher.corpus).path == few_teacher.path


@pytest.mark.parametrize("clip_id", ["validation-003", "test-000", "train-001", "stranger"])
def test_what_a_model_is_judged_on_is_never_trained_on(few_labels, few_teacher, pseudo_round, tmp_path, clip_id):
    probabilities = dict.fromkeys([*UNLABELLED[:3], clip_id], SURE)
    folder = pseudo_round(tmp_path / "leaking", probabilities, few_teacher.prepared.labels, list(probabilities))
    where = clip_id.split("-")[0].replace("stranger", "not in the manifest")
    with pytest.raises(ValueError, match=rf"train\.pseudo_labels: .*'{clip_id}' \({where}\)"):
        resolve_training(override(few_labels, {"train.pseudo_labels": str(folder)}), few_teacher.corpus)
