"""Jobs stopped at random moments by SIGKILL, Ctrl-C and SIGTERM, and run again."""

import signal
from functools import partial

from emo_ray.experiments.chaos import faults
from emo_ray.experiments.chaos.contents import unfinished
from emo_ray.experiments.chaos.faults import check
from emo_ray.experiments.chaos.running import stopped
from emo_ray.experiments.chaos.workshop import BEFORE, Workshop

TIMES = 2  # of each signal for each of the ten jobs
_MOST_DRAWS = 5  # of moments, where the job ended before one


def _stop(workshop: Workshop, job: str, number: signal.Signals) -> str:
    """Stop a job at a random moment, the number of times, and run it again each time."""
    workshop.undisturbed(job)
    moments_s = []
    leftovers = 0
    for _ in range(TIMES):
        moments_s.append(_stop_once(workshop, job, number))
        workshop.goes_on(job)
        leftovers += len(unfinished(workshop.store))
    moments = " and ".join(f"{moment_s:.1f}" for moment_s in moments_s)
    left = f", {leftovers} unfinished files left" if leftovers else ""
    return f"{TIMES} of {TIMES} reruns equal (after {moments} of {workshop.seconds[job]:.0f} s){left}"


def _stop_once(workshop: Workshop, job: str, number: signal.Signals) -> float:
    """The moment at which the job was stopped, in seconds after its start."""
    for _ in range(_MOST_DRAWS):
        workshop.open_store(job)
        moment_s = workshop.dice.uniform(0, workshop.seconds[job])
        running = workshop.start(job)
        running.wait(moment_s)
        running.stop(number)
        ended = running.end()
        if ended.status == 0:  # it was quicker than the undisturbed one
            continue
        if number == signal.SIGKILL:
            check(ended.status == -number, f"exit {ended.status}")
        else:
            stopped(ended, number)
        return moment_s
    raise faults.Unexpected(f"it ended before {_MOST_DRAWS} random moments")


_SIGNALS = {signal.SIGKILL: tuple(BEFORE), signal.SIGINT: tuple(BEFORE), signal.SIGTERM: ("prepare", "train")}
for _number, _jobs in _SIGNALS.items():
    for _job in _jobs:
        faults.add(
            faults.Fault(
                f"{_number.name} {_job}",
                "killed",
                "rerun equal" + ("" if _number == signal.SIGKILL else f"; exit {128 + _number}, 1 line"),
                partial(_stop, job=_job, number=_number),
            )
        )
