"""Records of trials: each has a run in MLflow, inside the sweep's."""

import pytest

from emo_ray import durable, store, tracking
from emo_ray.config import override
from emo_ray.stages.sweeps.records import Records
from emo_ray.stages.sweeps.stacked import FINISHED_WAVES, finished_trials
from emo_ray.stages.tune import BEST


def test_a_damaged_record_is_named_and_the_sweep_goes_on_before_it(tiny_config, tmp_path):
    config = override(tiny_config, {"tracking.enabled": False})
    run = tracking.open_run(config, tmp_path, "sweep", "sweep")
    records = Records(config, tmp_path, tmp_path / "trials", run)
    for number in range(4):
        records.begin(f"{number:05d}", {"fusion.lr": 0.1})
        records.end(f"{number:05d}", "complete")
    durable.write_text(tmp_path / "trials" / FINISHED_WAVES, "4")
    assert finished_trials(records) == 4
    (tmp_path / "trials/00002.json").write_text("")
    with pytest.raises(store.DamagedFile, match=r"00002\.json") as error:
        Records(config, tmp_path, tmp_path / "trials", run)
    store.set_aside(error.value.path, tmp_path)
    assert finished_trials(Records(config, tmp_path, tmp_path / "trials", run)) == 2


@pytest.mark.usefixtures("ray_session")
def test_mlflow_has_a_run_for_the_sweep_and_one_in_it_for_each_trial(swept, sweep_config, runs_of):
    client, parent, children = runs_of(sweep_config, swept.path)
    assert parent.info.status == "FINISHED"
    assert {f.path.split("/")[-1] for f in client.list_artifacts(parent.info.run_id, "sweep")} >= {"sweep.html", BEST}
    assert len(children) == 9
    by_name = {run.info.run_name: run for run in children}
    for trial in swept.content["trials"]:
        run = by_name[f"trial-{trial['number']}"]
        assert run.data.tags["state"] == trial["state"]
        assert run.info.status == "FINISHED"
        assert float(run.data.params["fusion.lr"]) == trial["params"]["fusion.lr"]
        assert run.data.metrics["objective"] == trial["value"]
        history = client.get_metric_history(run.info.run_id, "fusion/val_mean/waf")
        assert [metric.step for metric in history] == list(range(trial["epochs"]))
