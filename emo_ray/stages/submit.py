"""submit: send a job to a Ray cluster, or join it where it runs there already, and follow its log."""

import asyncio
import logging
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

import emo_ray
from emo_ray import config as configuration
from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.cluster_settings import Submit
from emo_ray.progress import console, say
from emo_ray.stages.result import Result

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_RECIPE = "submitted.yaml"
_CODE = "emo_ray.code"  # the key of a submission's metadata that holds the digest of its code
_CORPUS = ("data.manifest", "data.root")  # beside the settings that are declared as paths
_LOUD = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_LOOK_S = 0.5  # how often is looked whether a job whose log has ended has a status
_PATIENCE_S = 300.0  # with a head that has just started, and has no agent yet that takes jobs


def submit(config: Config) -> Result:
    """Send the job to the cluster at `submit.address`, or join it there, and follow its log until it ends.

    The result's status is the job's. Raises ValueError for paths of this machine, and where no cluster answers.
    """
    _check_paths(config)
    client = _client(config.submit.address)
    name = submission_name(config)
    codes = _codes(client)
    earlier = _latest(name, codes)
    with _working_folder(config) as folder:
        code = store.digest_path(folder / "emo_ray")
        if earlier and not client.get_job_status(earlier).is_terminal():
            submission = earlier
            _tell_of_joining(submission, is_same_code=codes[earlier] == code)
        else:
            submission = _submit(client, config.submit.job, next_id(name, earlier), folder, code)
    stop = f"ray job stop --address {shlex.quote(config.submit.address)} {submission}"
    if not config.submit.follow:
        lines = ["it runs on the cluster; submit.follow=true shows its log", f"to stop it: {stop}"]
        return Result(Path(submission), {"id": submission, "state": _state(client, submission)}, lines=lines)
    try:
        return _followed(client, submission)
    except KeyboardInterrupt:
        say(f"{submission} runs on, and the same command joins it again; to stop it: {stop}")
        return Result(Path(submission), {"id": submission, "state": _state(client, submission)})


def submission_name(config: Config) -> str:
    """The id of a config's first submission: its job, and a digest of all that does not say how it is sent."""
    return f"{config.submit.job}-{store.digest(_sent(config).model_dump(mode='json'))}"


def next_id(name: str, earlier: str | None) -> str:
    """The id behind an earlier one: NAME, NAME-2, NAME-3, ..."""
    return name if earlier is None else f"{name}-{_number(name, earlier) + 1}"


def _latest(name: str, ids: Mapping[str, str]) -> str | None:
    """The last submission of a name; None before the first."""
    return max((key for key in ids if _number(name, key)), key=lambda key: _number(name, key), default=None)


def _number(name: str, submission: str) -> int:
    """Which submission of a name this is, from 1; 0 for one of another name."""
    match = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", submission)
    return int(match[1] or 1) if match else 0


def _check_paths(config: Config) -> None:
    """Raise ValueError for a relative path of this machine: on the cluster nothing lies there."""
    declared = configuration.declarations()
    for key, value in configuration.flatten(config).items():
        if not value or not (declared[key].path or key in _CORPUS):
            continue
        for path in [value] if isinstance(value, str) else value:
            if not Path(path).is_absolute() and Path(path).exists():
                raise ValueError(
                    f"{key}: found {path}, a path of this machine; expected the absolute path of a file or folder "
                    "that all machines of the cluster see: copy it there"
                )


def _client(address: str) -> "JobSubmissionClient":
    """A connection to a cluster's dashboard. Raises ValueError where none answers."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, AuthenticationError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"submit.address: found no cluster that takes jobs at {address} ({reason}), expected a dashboard: open a "
            "tunnel with `ray dashboard cluster.yaml`, and set RAY_AUTH_MODE=token where it wants a token"
        ) from error


@contextmanager
def _working_folder(config: Config) -> Iterator[Path]:
    """A temporary folder with what the job needs on the cluster: this package, and the config as a recipe."""
    with tempfile.TemporaryDirectory(prefix="emo_ray-submit-") as name:
        folder = Path(name)
        package = Path(emo_ray.__file__).parent
        shutil.copytree(package, folder / "emo_ray", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / _RECIPE).write_text(configuration.dump(_sent(config)), encoding="utf-8")
        yield folder


def _sent(config: Config) -> Config:
    """The config without how it is sent."""
    return config.model_copy(update={"submit": Submit(job=config.submit.job)})


def _codes(client: "JobSubmissionClient") -> dict[str, str]:
    """The digest of the code of every submission that the cluster knows, by its id; empty for one of other tools."""
    jobs = client.list_jobs()
    return {job.submission_id: (job.metadata or {}).get(_CODE, "") for job in jobs if job.submission_id}


def _tell_of_joining(submission: str, is_same_code: bool) -> None:
    say(f"joining {submission}, which the cluster has not finished")
    if not is_same_code:
        say("warning: it runs other code than is here; to run this code, stop it and submit it again")


def _state(client: "JobSubmissionClient", submission: str) -> str:
    """Ray's word for how far a submission is: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(client.get_job_status(submission))


def _submit(client: "JobSubmissionClient", job: str, submission: str, folder: Path, code: str) -> str:
    """Start a job on the head of the cluster, as Ray does with one that reserves nothing, or join who was quicker."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    say(f"submitting {submission}: {size / 1e6:.1f} MB in {len(files)} files, zipped")
    deadline_s = time.monotonic() + _PATIENCE_S
    is_told = False
    while True:
        try:
            return client.submit_job(
                entrypoint=shlex.join(["python", "-m", "emo_ray", job, _RECIPE]),
                submission_id=submission,
                runtime_env={"working_dir": str(folder)},
                metadata={_CODE: code},
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                _tell_of_joining(submission, is_same_code=True)
                return submission
            if "No available agent" not in str(error) or time.monotonic() > deadline_s:
                raise ValueError(f"submit.address: the cluster refused {submission}: {error}") from error
        if not is_told:
            say("waiting for the cluster's head, which takes no jobs yet")
        is_told = True
        time.sleep(_LOOK_S)


def _followed(client: "JobSubmissionClient", submission: str) -> Result:
    """Show a job's log to its end, and wait for its status."""

    async def show() -> None:
        async for text in client.tail_job_logs(submission):
            console.print(text, end="", markup=False, soft_wrap=True)

    try:
        asyncio.run(show())
    except (RuntimeError, aiohttp.ClientError) as error:
        raise ValueError(
            f"lost the connection to {submission} ({error}): it runs on, and the same command joins it again"
        ) from error
    while not client.get_job_status(submission).is_terminal():
        time.sleep(_LOOK_S)
    info = client.get_job_info(submission)
    state = str(info.status)
    failed = 0 if state == "SUCCEEDED" else max(info.driver_exit_code or 1, 1)
    content = {"id": submission, "state": state, "message": info.message}
    return Result(Path(submission), content, lines=[f"{submission}: {state}"], status=failed)
