"""Records of trials: each has a run in MLflow, inside the sweep's."""

import pytest

from emo_ray.stages.tune import BEST

pytestmark = pytest.mark.usefixtures("ray_session")


def test_mlflow_has_a_run_for_the_sweep_and_one_in_it_for_each_trial(swept, sweep_config, runs_of):
    client, parent, children = runs_of(sweep_config, swept.path)
    assert parent.info.status == "FINISHED"
    assert {f.path.split("/")[-1] for f in client.list_artifacts(parent.info.run_id, "sweep")} >= {"sweep.html", BEST}
    assert len(children) == 9
    by_name = {run.info.run_name: run for run in children}
    for trial in swept.content["trials"]:
        run = by_name[f"trial-{trial['number']}"]
        assert run.data.tags["state"] == trial["state"]
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[trial["state"]]
        assert float(run.data.params["fusion.lr"]) == trial["params"]["fusion.lr"]
        assert run.data.metrics["objective"] == trial["value"]
        history = client.get_metric_history(run.info.run_id, "fusion/val_mean/waf")
        assert [metric.step for metric in history] == list(range(trial["epochs"]))
