"""Fixtures for many tests: a quiet environment for Ray, the real data beside the project, and small media files.

emo_ray is imported by the fixtures that run it.
"""

import gc
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import hypothesis
import numpy as np
import psutil
import pytest
import small_media
from pages import flaws

gc.disable()  # until `pytest_collection_finish`: imports leave a million objects and no garbage

# Ray, torch and others read these when they are imported. None of the imports above imports them.
for _name, _value in {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

# No deadline: a busy machine is no failure. The same examples in every run, so that a failure can be repeated.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

# For the shared Ray: nobody looks at its logs, metrics and events, whose collection takes as much as a few tests.
UNWATCHED = {
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "86400",
    "REPORTER_UPDATE_INTERVAL_MS": "86400000",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
}
SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 * 2**30  # of memory; the suite's files take a gigabyte
DAY_S = 24 * 3600
TEMP_VARIABLES = {"PYTEST_DEBUG_TEMPROOT", "TMPDIR"}  # variables by which a user chooses where tests write
# Run by its process too, so that both end together.
FILES_BESIDE_RAY = {
    "test_conversations.py",
    "test_evaluation.py",
    "test_tracking.py",  # whose server both would start
}
_in_memory: list[Path] = []
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Put the tests' files into memory where there is room: tests that write wait a sixth of their time for a disk."""
    # Shells have what they run in the background, as make does, ignore Ctrl-C; jobs that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    room = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    if min(room, psutil.virtual_memory().available) > ROOM_BYTES and not os.environ.keys() & TEMP_VARIABLES:
        left_over = SHARED_MEMORY.glob("emo_ray-tests-*")  # of runs that were killed
        for folder in left_over:
            with suppress(FileNotFoundError):  # another run removes it just now
                _in_memory.extend([folder] if time.time() - folder.stat().st_mtime > DAY_S else [])
        os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(prefix="emo_ray-tests-", dir=SHARED_MEMORY)
        _in_memory.append(Path(os.environ["PYTEST_DEBUG_TEMPROOT"]))


def pytest_unconfigure() -> None:
    """Remove the tests' files from memory, and those that killed runs left there."""
    for folder in _in_memory:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the process with the shared Ray, so that another process can run the others meanwhile."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()) or item.path.name in FILES_BESIDE_RAY:
            item.add_marker("ray")


def pytest_collection_finish() -> None:
    """Take what the imports made from the garbage collector: to look through it costs a third of a second each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def sound_pages(tmp_path_factory):
    """Every page (.html) that any test has written keeps to what `pages.flaws` asks of a page."""
    yield
    paths = (path for path in sorted(tmp_path_factory.getbasetemp().rglob("*.html")) if path.is_file())
    pages = {path.read_text("utf-8", errors="replace"): str(path) for path in paths}  # tests also copy pages,
    whole = {html: path for html, path in pages.items() if html.rstrip().endswith("</html>")}  # and cut them
    flawed = {path: reasons for html, path in whole.items() if (reasons := flaws(html))}
    assert not flawed, flawed


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real, licence-bound data beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}, which is not part of the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def media_files(tmp_path_factory) -> dict[str, Path]:
    """Small media by name, good and bad: see `small_media.write_all`."""
    return small_media.write_all(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def frame_number():
    """A function that reads the number from an upright (H, W, 3) image of `media_files`."""
    return small_media.frame_number


@pytest.fixture(scope="session")
def ray_session():
    """A Ray shared by all tests that need it. It has 4 logical CPUs on any machine, so that no task waits for ever."""
    import ray

    from emo_ray import cluster
    from emo_ray.config import load

    with pytest.MonkeyPatch.context() as environment:
        for name, value in UNWATCHED.items():
            environment.setenv(name, value)
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=256 * 2**20,
        )
    cluster.connect(load("mini"))
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """The whole job at its smallest: 72 synthetic clips, two frames each, a CLIP of two small blocks, two epochs.

    MLflow takes seconds to make a database, so tests with a store of their own set `tracking.enabled` to false.
    """
    from emo_ray.config import load

    folder = tmp_path_factory.mktemp("tiny")
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "tiny_clip.json").write_text(json.dumps(clip))
    return load(
        "mini",
        {
            "store.root": str(folder / "store"),
            "data.outside_root": True,  # tests write manifests of this corpus in folders of their own
            "emovclip.clip": str(folder / "tiny_clip.json"),
            "emovclip.weights": None,
            "synthetic.train_clips": 36,
            "synthetic.validation_clips": 12,
            "synthetic.test_clips": 24,
            "synthetic.unlabelled_clips": 0,
            "media.frames": 2,
            # One head that is judged on validation clips: what small corpora get is tested beside it.
            "train.heads": 1,
            "train.refit": False,
            "fusion.auto": False,
            "evaluate.floors": False,
            "media.clips_per_part": 16,
            "train.epochs": 2,
            "train.num_workers": 0,  # Ray Train's workers take ten seconds to start; tests that need them set it
            "emovclip.batch_size": 8,
            "fusion.hidden": 16,
            "fusion.passes_per_epoch": 1,
            "text.ngram_features": 64,
        },
    )


@pytest.fixture(scope="session")
def evaluated(ray_session, tiny_config):
    """The result of the tiny job, from an empty store to its report."""
    from emo_ray.stages.evaluate import evaluate

    result = evaluate(tiny_config)
    shutil.copytree(tiny_config.store.root, _as_evaluated(tiny_config))
    return result


@pytest.fixture(scope="session")
def evaluated_store(evaluated, tiny_config):
    """A copy of the tiny job's store that holds what the job made, and nothing that tests have made in it since."""
    return _as_evaluated(tiny_config)


def _as_evaluated(config) -> Path:
    return Path(f"{config.store.root}-as-evaluated")


@pytest.fixture(scope="session")
def pseudo_round():
    """A function that writes a round's folder as jobs/pseudo_label.py leaves it, with the columns that are read.

    `probabilities` are the K of each clip by clip_id, `accepted_ids` those that are accepted; keyword arguments
    replace whole columns.
    """
    import pyarrow as pa

    from emo_ray import parquet, store

    def write(folder, probabilities, labels, accepted_ids, per_part=2, **changes):
        rows = [
            {
                "clip_id": clip_id,
                "calibrated": values,
                "prediction": labels[int(np.argmax(values))],
                "accepted": clip_id in accepted_ids,
                "round": 2,
                "teacher": "model-a",
                **changes,
            }
            for clip_id, values in probabilities.items()
        ]
        kinds = {"calibrated": pa.list_(pa.float32()), "accepted": pa.bool_(), "round": pa.int64()}
        fields = [(name, kinds.get(name, pa.string())) for name in rows[0]]
        schema = pa.schema(fields, {"labels": json.dumps(list(labels))})
        with store.writing(folder, {"kind": "pseudo_labels"}) as temporary:
            for i in range(0, len(rows), per_part):
                part = pa.Table.from_pylist(rows[i : i + per_part], schema)
                parquet.write(temporary / f"part-{i:03d}.parquet", part)
        return folder

    return write
