"""Figures of a running job as gauges of Ray, which Prometheus collects and docs/grafana.json draws."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from emo_ray import progress

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

PREFIX = "emo_ray_"  # of every gauge's name; Ray puts "ray_" before it
JOB = "job_name"  # the tag of every gauge: "job" is Prometheus' own label of what it collects from, and would hide ours

_OF_RUNNING_STAGES = ("clips_per_second", "waiting_share")
_HANDED_ON_EVERY_S = 2.0


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
    """Publish what is measured while the block runs, under the job's name, wherever this process is in a cluster.

    Ray forgets a gauge that was not set for twenty seconds, so the last value of each is set again and again.
    """
    gauges: dict[str, Gauge] = {}
    latest: dict[tuple[str, str | None], float] = {}  # by the gauge and its tag
    lock = Lock()

    def publish(kind: str, fields: dict[str, Any]) -> None:
        if kind == "stage" and fields["state"] == "ended":
            with lock:
                for name in _OF_RUNNING_STAGES:
                    latest.pop((name, fields["title"]), None)
        elif kind == "stage" and fields["unit"] == "clips":
            with lock:
                latest["clips_per_second", fields["title"]] = float(fields["rate"])
        elif kind == "measured":
            tag = GAUGES[fields["name"]].tag
            with lock:
                latest[fields["name"], None if tag is None else str(fields[tag])] = float(fields["value"])

    def hand_on() -> None:
        if not _is_connected():
            return
        with lock:
            for (name, tag_value), value in latest.items():
                tag = GAUGES[name].tag
                if name not in gauges:
                    gauges[name] = _gauge(name)
                gauges[name].set(value, tags={JOB: job} | ({tag: tag_value} if tag and tag_value else {}))

    with progress.listening(publish), progress.repeated(hand_on, _HANDED_ON_EVERY_S):
        yield


def _gauge(name: str) -> "Gauge":
    from ray.util.metrics import Gauge

    description = GAUGES[name]
    tags = (JOB, description.tag) if description.tag else (JOB,)
    return Gauge(PREFIX + name, description.about, tag_keys=tags)


def _is_connected() -> bool:
    """Whether this process has loaded Ray, which takes a second, and joined a cluster."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # not there yet while Ray is imported
    return is_initialized is not None and is_initialized()
