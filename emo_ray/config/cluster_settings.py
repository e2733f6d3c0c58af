"""The sections that say on which cluster a job runs, and how it gets there."""

from typing import Literal

from emo_ray.config.setting import NOTHING, Section, setting


class Cluster(Section, decides=NOTHING, owner="caller", in_recipe=False):
    """Which Ray cluster to use."""

    address: str | None = setting(
        None, "Address of a Ray cluster. null: the one this process was submitted to, else a local one."
    )
    num_cpus: int | None = setting(None, "Logical CPUs of a local cluster. null: all.", ge=1)
    gpu_type: str | None = setting(
        None,
        "Kind of GPU on which workers and encoders run, such as L4 or A100: Ray's label `ray.io/accelerator-type` of "
        "machines. null: any.",
        min_length=1,
    )
    gpu_share: float = setting(
        1.0,
        "Share of a GPU that a process takes which encodes, predicts or serves: with 0.5 two of them share one.",
        gt=0,
        le=1,
    )


class Submit(Section, decides=NOTHING, owner="caller", in_recipe=False):
    """Which job jobs/submit.py sends to a cluster, and to which one."""

    job: Literal[
        "annotate",
        "bench",
        "chaos",
        "check",
        "claims",
        "crosscorpus",
        "crossvalidate",
        "doctor",
        "evaluate",
        "export",
        "features",
        "predict",
        "prepare",
        "pseudo_label",
        "report",
        "segment",
        "self_train",
        "serve",
        "status",
        "train",
        "transcribe",
        "tune",
        "verify",
    ] = setting("train", "The job that the cluster runs; also the first word of the command line.")
    address: str = setting(
        "http://127.0.0.1:8265",
        "Address of the cluster's dashboard, such as `ray dashboard cluster.yaml` opens. RAY_ADDRESS wins over it.",
    )
    follow: bool = setting(True, "Show the job's log until it ends; false returns as soon as it is submitted.")
