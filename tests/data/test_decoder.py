"""The process that decodes: it answers as `media` does, and survives what a clip does to it."""

import os
import signal
import struct
import subprocess
import sys
import time
import wave

import numpy as np
import psutil
import pytest

from emo_ray.config.media_settings import Media
from emo_ray.data import decoder, media, shards
from emo_ray.data.manifest import Clip
from emo_ray.trouble import PlaceTrouble

LIMITS = {"max_s": 60.0, "max_memory_mb": 1024}


def silence(path, seconds, rate_hz, channels):
    """A WAV file of zeros that takes no room on the disk."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        header_bytes = 44
        file.writeframes(b"")
    data_bytes = seconds * rate_hz * channels * 2
    with path.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", header_bytes - 8 + data_bytes))
        file.seek(header_bytes - 4)
        file.write(struct.pack("<I", data_bytes))
        file.truncate(header_bytes + data_bytes)
    return path


def meet_trouble(source):
    raise PlaceTrouble({source: f"trouble at {source}"})


def is_running(pid):
    """Whether a process runs; one that ended and that nobody has asked about does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_answers_as_the_functions_do(media_files):
    path = str(media_files["clip"])
    for read, *args in [(media.read_video, 4, 32), (media.read_audio, 120.0)]:
        values, status = decoder.decode(read, path, *args, **LIMITS)
        expected, expected_status = read(path, *args)
        assert status == expected_status
        np.testing.assert_array_equal(values, expected)
    assert decoder.decode(media.read_audio, "/nowhere.wav", 120.0, **LIMITS) == media.read_audio("/nowhere.wav", 120.0)
    assert decoder.decode(media.read_video, None, 4, 32, **LIMITS) == (None, "missing")


@pytest.mark.parametrize(
    ("read", "source", "limits", "status"),
    [
        (sum, range(10**15), {"max_s": 0.05}, "corrupt: not decoded within media.max_decode_s=0.05 s"),
        (signal.raise_signal, signal.SIGSEGV, {}, "corrupt: the decoder crashed (SIGSEGV)"),
        (signal.raise_signal, signal.SIGABRT, {}, "corrupt: the decoder crashed (SIGABRT)"),
        (bytearray, 2**30, {"max_memory_mb": 256}, "corrupt: not decoded within media.max_memory_mb=256 MiB"),
    ],
)
def test_a_child_that_hangs_crashes_or_grows_costs_one_clip(media_files, read, source, limits, status):
    assert decoder.decode(read, source, **LIMITS | limits) == (None, status)
    _, next_status = decoder.decode(media.read_audio, str(media_files["clip"]), 120.0, **LIMITS)
    assert next_status == "ok"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_is_ended_from_outside_is_no_fault_of_the_clip(ending):
    with pytest.raises(PlaceTrouble, match=ending.name):
        decoder.decode(signal.raise_signal, ending, **LIMITS)


def test_a_child_that_waits_for_storage_is_no_fault_of_the_clip():
    with pytest.raises(PlaceTrouble, match=r"media\.max_decode_s=0\.05"):
        decoder.decode(time.sleep, 3600, **LIMITS | {"max_s": 0.05})


def test_trouble_that_the_child_meets_comes_through(media_files):
    with pytest.raises(PlaceTrouble, match="at /a") as caught:
        decoder.decode(meet_trouble, "/a", **LIMITS)
    assert list(caught.value.reasons) == ["/a"]
    assert decoder.decode(media.read_audio, str(media_files["clip"]), 120.0, **LIMITS)[1] == "ok"


@pytest.mark.parametrize(("limit", "number"), [("RLIMIT_NOFILE", 3), ("RLIMIT_AS", 2**20)])
def test_a_machine_at_its_limits_is_no_fault_of_the_clip(media_files, limit, number):
    """In a process of its own, whose child cannot start under the limit."""
    script = (
        "import resource, sys; from emo_ray.data import decoder, media; from emo_ray.trouble import PlaceTrouble\n"
        f"resource.setrlimit(resource.{limit}, ({number}, {number}))\n"
        "try:\n decoder.decode(media.read_audio, sys.argv[1], 120.0, max_s=60.0, max_memory_mb=1024)\n"
        "except PlaceTrouble as trouble:\n print(trouble)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(media_files["clip"])], capture_output=True, text=True)
    assert "could not start" in run.stdout, run.stderr


def test_prints_of_a_library_do_not_spoil_answers(media_files):
    assert decoder.decode(os.system, "echo a line on standard output", **LIMITS) == 0
    assert decoder.decode(media.read_audio, str(media_files["clip"]), 120.0, **LIMITS)[1] == "ok"


def test_the_child_ends_with_its_process():
    script = (
        "import os; from emo_ray.data import decoder\n"
        "decoder.decode(os.path.getsize, '/', max_s=60.0, max_memory_mb=1024)\n"
        "print(decoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    child = int(run.stdout)
    deadline_s = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline_s


def test_a_part_keeps_the_other_clips(tmp_path, media_files):
    """The limit lies between the times that the two sounds take."""
    long_path = silence(tmp_path / "long.wav", seconds=118, rate_hz=192_000, channels=8)
    clips = [Clip("a", audio=str(media_files["clip"])), Clip("b", audio=str(long_path)), Clip("c", text="still here")]
    config = Media(frames=2, max_decode_s=0.15)
    rows = {row["clip_id"]: row for clip in shards.identified(clips, "sample") for row in shards.rows(clip, config, 32)}
    assert [rows[name]["audio_status"].partition(" ")[0] for name in "abc"] == ["ok", "corrupt:", "missing"]
    assert "max_decode_s" in rows["b"]["audio_status"]
    assert rows["c"]["text"] == "still here"
