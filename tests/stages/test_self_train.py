"""self_train: rounds end when they bring nothing more, can be repeated and continued, and are judged fairly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emo_ray import store, tracking
from emo_ray.config import override
from emo_ray.config.job_settings import Rounds
from emo_ray.data import manifest
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.trainable_state import trained_state
from emo_ray.reports import rounds as rounds_report
from emo_ray.stages import self_train as stage
from emo_ray.stages.self_train import ROUNDS, Round, best_of, judged, self_train, why_over


def round_of(number, waf, accepted=5, name=None):
    counts = {"a": accepted} if accepted else {}
    scores = {"waf": waf} if accepted else {}
    return Round(number, 0, name or f"model-{number}", f"round-{number}", counts, [], scores)


def played(wafs, settings, first=0.5):
    """Rounds whose students have these WAFs (None: no clip is accepted), and why they end."""
    rounds = [Round(0, None, "model-0", None, {}, [], {"waf": first}, kept=True)]
    while (ended := why_over(rounds, settings)) is None:
        number = len(rounds)
        waf = wafs[number - 1]
        rounds.append(judged(round_of(number, waf, accepted=0 if waf is None else 5), rounds))
    return rounds, ended


def test_a_round_is_kept_where_it_is_better_than_all_before():
    rounds, _ = played([0.6, 0.55, 0.6, 0.61], Rounds(most=4, patience=4))
    assert [played_round.kept for played_round in rounds] == [True, True, False, False, True]
    assert [played_round.gain for played_round in rounds[1:]] == pytest.approx([0.1, -0.05, 0.0, 0.01])
    assert best_of(rounds).number == 4
    assert best_of(rounds[:4]).number == 1


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_rounds_without_a_rise_end_the_job(patience):
    rounds, ended = played([0.6, 0.59, 0.58, 0.57, 0.7], Rounds(most=5, patience=patience))
    assert len(rounds) - 1 == 1 + patience
    assert "rounds.patience" in ended
    assert best_of(rounds).number == 1


def test_a_rise_below_min_gain_is_kept_but_is_no_rise():
    settings = Rounds(most=9, patience=2, min_gain=0.01)
    rounds, ended = played([0.505, 0.509, 0.6], settings)
    assert [played_round.kept for played_round in rounds] == [True, True, True]
    assert "1 points for 2 rounds" in ended
    assert len(played([0.505, 0.52, 0.521, 0.55, 0.551, 0.552], settings)[0]) - 1 == 6


def test_most_patience_and_nothing_accepted_end_it():
    assert played([0.6, 0.7, 0.8], Rounds(most=2))[1] == "2 rounds played (rounds.most)"
    assert played([0.6, 0.7], Rounds(most=1))[1] == "1 round played (rounds.most)"
    rounds, ended = played([0.6, None], Rounds(most=9))
    assert (len(rounds), ended) == (3, "no clip was accepted")
    assert not rounds[-1].kept


def test_a_student_that_is_an_earlier_model_ends_it():
    rounds, _ = played([0.6], Rounds(most=1))
    repeated = judged(round_of(2, 0.6, name="model-1"), rounds)
    assert "nothing changed: the student of round 2 is the model of round 1" in why_over(
        [*rounds, repeated], Rounds(most=9)
    )
    assert not repeated.kept


def test_fewer_rounds_are_the_first_of_more():
    wafs = [0.52, 0.51, 0.55, 0.56, 0.54]
    all_rounds, _ = played(wafs, Rounds(most=5, patience=3))
    for most in range(1, 5):
        assert played(wafs, Rounds(most=most, patience=3))[0] == all_rounds[: most + 1]


@pytest.fixture(scope="module")
def config(few_labels):
    keys = {"rounds.most": 2, "pseudo.policy": "fixed", "pseudo.threshold": 0.4, "rounds.min_gain": 0.0}
    return override(few_labels, keys)


@pytest.fixture(scope="module")
def self_trained(config, few_teacher):
    return self_train(config)


def everything(config):
    """The times at which the artefacts of the store were made."""
    kinds = ("checkpoints/*", "pseudo_labels/*/*", "self_train/*")
    return {p: p.stat().st_mtime_ns for kind in kinds for p in Path(config.store.root).glob(kind)}


def mlflow_runs(config, name):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.uri(config, Path(config.store.root)))
    experiment = client.get_experiment_by_name("emo_ray")
    return client.search_runs([experiment.experiment_id], f"attributes.run_name LIKE '{name}%'")


def test_a_round_has_a_teacher_pseudo_labels_and_a_student(self_trained, config, few_teacher):
    first, second = self_trained.content["rounds"][:2]
    root = Path(config.store.root)
    assert root / first["checkpoint"] == few_teacher.path
    assert first["scores"]["waf"] == store.read_meta(few_teacher.path)["best"]["fusion"]["waf"]
    card = (root / second["checkpoint"] / checkpoint_files.CARD).read_text()
    assert f"pseudo-labelled: {sum(second['accepted'].values())} by" in card
    assert 0 < sum(second["accepted"].values()) <= 60
    scores = store.read_meta(root / second["checkpoint"])["best"]["fusion"]
    assert second["scores"] == {key: scores[key] for key in ("waf", "accuracy", "uar", "n")}
    assert second["gain"] == pytest.approx(second["scores"]["waf"] - first["scores"]["waf"])
    best = max(self_trained.content["rounds"], key=lambda r: r["scores"].get("waf", 0))
    assert Path(self_trained.content["checkpoint"]) == root / best["checkpoint"]
    assert {p.name for p in self_trained.path.iterdir()} >= {ROUNDS, rounds_report.PAGE, rounds_report.PICTURE}
    written = (self_trained.path / ROUNDS).read_text()
    assert json.loads(written) == self_trained.content | {"checkpoint": best["checkpoint"]}
    assert str(root) not in written


def test_a_second_run_makes_nothing(self_trained, config):
    before = everything(config)
    again = self_train(config)
    assert (again.path, again.content) == (self_trained.path, self_trained.content)
    assert everything(config) == before


def test_a_smaller_most_gives_the_state_after_that_round_back(self_trained, config):
    before = everything(config)
    shorter = self_train(override(config, {"rounds.most": 1}))
    assert shorter.content["rounds"] == self_trained.content["rounds"][:2]
    assert {p.parent.name for p in set(everything(config)) - set(before)} <= {"self_train"}
    assert {p: t for p, t in everything(config).items() if p in before} == before


def test_mlflow_has_one_run_for_the_job_and_one_in_it_for_each_round(self_trained, config):
    """Also after the job was run several times, with different numbers of rounds."""
    self_train(config)
    jobs, rounds = mlflow_runs(config, "self_train "), mlflow_runs(config, "round-")
    assert len(jobs) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in rounds} == {jobs[0].info.run_id}
    metrics_of = {run.info.run_name: run.data.metrics for run in rounds}
    assert len(rounds) == len(metrics_of) == len(self_trained.content["rounds"]) - 1
    for expected in self_trained.content["rounds"][1:]:
        metrics = metrics_of[f"round-{expected['number']}"]
        assert metrics["accepted"] == sum(expected["accepted"].values())
        assert metrics["validation/waf"] == pytest.approx(expected["scores"]["waf"])
    assert {run.info.status for run in [*jobs, *rounds]} == {"FINISHED"}
    id_of = {run.info.run_name: run.info.run_id for run in rounds}
    parent_of = {
        run.data.tags["emo_ray.key"]: run.data.tags.get("mlflow.parentRunId") for run in mlflow_runs(config, "train ")
    }
    for expected in self_trained.content["rounds"][1:]:
        if expected["checkpoint"]:
            key = Path(expected["checkpoint"]).name.removeprefix("model-")
            assert parent_of[key] in id_of.values()  # of the first round that trained this student


def test_a_model_from_elsewhere_teaches_first_and_warm_students_go_on_from_it(config, few_teacher, self_trained):
    keys = {"checkpoint": str(few_teacher.path), "rounds.start": "warm", "rounds.most": 1}
    rounds = self_train(override(config, keys)).content["rounds"]
    assert rounds[0]["checkpoint"] == few_teacher.path.relative_to(config.store.root).as_posix()
    assert rounds[0]["scores"] == pytest.approx(self_trained.content["rounds"][0]["scores"])
    assert rounds[1]["accepted"] == self_trained.content["rounds"][1]["accepted"]
    card = (Path(config.store.root) / rounds[1]["checkpoint"] / checkpoint_files.CARD).read_text()
    assert f"head started from: {few_teacher.path.name}" in card


def test_what_cannot_be_judged_is_refused(config, few_teacher, tmp_path):
    clips = few_teacher.prepared.clips

    def config_on(clips, **changes):
        manifest.write(tmp_path / "clips.parquet", clips)
        keys = {"data.manifest": str(tmp_path / "clips.parquet"), "data.labels": few_teacher.prepared.labels, **changes}
        return override(config, keys)

    unjudged = [replace(c, label=None) if c.split == "validation" else c for c in clips]
    with pytest.raises(ValueError, match="validation clips"):
        self_train(config_on(unjudged))
    with pytest.raises(ValueError, match="unlabelled clips"):
        self_train(config_on([c for c in clips if c.split != "unlabelled"]))
    with pytest.raises(ValueError, match=r"train\.pseudo_labels=somewhere"):
        self_train(override(config, {"train.pseudo_labels": "somewhere"}))
    turned = {"train": "test", "test": "train"}
    moved = [replace(c, split=turned.get(c.split, c.split)) for c in clips]
    with pytest.raises(ValueError, match=r"24 clips.*'train-"):
        self_train(config_on(moved, checkpoint=str(few_teacher.path)))
    other = shutil.copytree(few_teacher.path, tmp_path / "other")
    head, (model_config, _) = checkpoint.load_fusion(other), checkpoint_files.read_config(other)
    checkpoint.write(other, trained_state(head), model_config, ["glad", "calm", "upset"], "card")
    with pytest.raises(ValueError, match=r"glad, calm, upset.* calm, glad, upset"):
        self_train(override(config, {"checkpoint": str(other)}))


def test_drift_is_said(few_teacher):
    classes = stage._drift(few_teacher.prepared, {"calm": 100, "glad": 60, "upset": 1})
    assert classes == ["upset starved"]
