"""Figures of a running job as gauges of Ray, which Prometheus collects and docs/grafana.json draws."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from emo_ray import progress

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

PREFIX = "emo_ray_"  # of every gauge's name; Ray puts "ray_" before it
JOB = "job_name"  # the tag of every gauge: "job" is Prometheus' own label of what it collects from, and would hide ours


class Description(NamedTuple):
    """What a gauge says, and the tags that tell its values apart, beside the job."""

    about: str
    tag: str | None = None


GAUGES = {
    "clips_per_second": Description("Clips that a stage works off a second", "stage"),
    "waiting_share": Description("Share of an epoch's time in which training had no batch to work on", "stage"),
    "validation_waf": Description("Weighted F1 on the validation clips after the last epoch", "stage"),
    "accepted_pseudo_labels": Description("Unlabelled clips that got a pseudo-label"),
    "bad_media": Description("Clips whose media could not be used", "modality"),
}


@contextmanager
def published(job: str) -> Iterator[None]:
    """Publish what is measured while the block runs, under the job's name, wherever this process is in a cluster."""
    gauges: dict[str, Gauge] = {}

    def publish(kind: str, fields: dict[str, Any]) -> None:
        if kind == "stage" and fields["unit"] == "clips":
            rate = 0.0 if fields["state"] == "ended" else fields["rate"]
            kind, fields = "measured", {"name": "clips_per_second", "value": rate, "stage": fields["title"]}
        if kind == "measured" and _is_connected():
            name = fields["name"]
            tag = GAUGES[name].tag
            tags = {JOB: job} | ({tag: str(fields[tag])} if tag else {})
            if name not in gauges:
                gauges[name] = _gauge(name)
            gauges[name].set(float(fields["value"]), tags=tags)

    with progress.listening(publish):
        yield


def _gauge(name: str) -> "Gauge":
    from ray.util.metrics import Gauge

    description = GAUGES[name]
    tags = (JOB, description.tag) if description.tag else (JOB,)
    return Gauge(PREFIX + name, description.about, tag_keys=tags)


def _is_connected() -> bool:
    """Whether this process has loaded Ray, which takes a second, and joined a cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
