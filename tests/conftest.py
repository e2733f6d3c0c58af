"""Fixtures for many tests: a quiet environment for Ray, the real data beside the project, and small media files.

Media are written and read with PyAV alone, so they are an independent reference; emo_ray is imported by the fixtures
that run it.
"""

import gc
import json
import os
import shutil
import struct
import tempfile
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import hypothesis
import numpy as np
import psutil
import pytest
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

SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 * 2**30  # of memory; the suite's files take a gigabyte
DAY_S = 24 * 3600
TEMP_VARIABLES = {"PYTEST_DEBUG_TEMPROOT", "TMPDIR"}  # variables by which a user chooses where tests write
FILES_BESIDE_RAY = {"test_evaluation.py"}  # run by its process too, so that both end together
_in_memory: list[Path] = []
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FPS = 25
WIDTH, HEIGHT = 160, 120
BITS = 10  # horizontal bars of 12 pixels, black or white: the frame's number; any centre crop keeps them
ROTATIONS = {  # a, b, c, d of an mp4 file's display matrix, by which a viewer turns the picture
    "rotated": (0, 1, -1, 0),  # clockwise by 90 degrees, as telephones held upright write it
    "rotated_left": (0, -1, 1, 0),
    "rotated_180": (-1, 0, 0, -1),
    "mirrored": (-1, 0, 0, 1),
    "mirrored_rotated": (0, 1, 1, 0),
}


def pytest_configure() -> None:
    """Put the tests' files into memory where there is room: tests that write wait a sixth of their time for a disk."""
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
    pages = {str(path): path.read_text("utf-8", errors="replace") for path in paths}
    whole = {path: html for path, html in pages.items() if html.rstrip().endswith("</html>")}  # tests also cut pages
    flawed = {path: reasons for path, html in whole.items() if (reasons := flaws(html))}
    assert not flawed, flawed


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real, licence-bound data beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}, which is not part of the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def media_files(tmp_path_factory) -> dict[str, Path]:
    """Small media by name; every frame tells its number (see `frame_number`), 25 frames per second, 160x120 pixels.

    Good: clip (2 s with stereo sound), short_gop and long_gop (10 s), silent, audio_only, wav, portrait, wide, rotated,
    rotated_left, rotated_180, mirrored, mirrored_rotated, edited (an edit list hides the first second of silent), avi
    and mpg (B-frames, no usable timestamps), ts, mkv, adts (4 s, of which FFmpeg guesses 58), mp3, cover (mp3 with a
    picture), titled (wav whose title is no UTF-8). Bad: truncated, truncated_faststart, truncated_header, text,
    subtitles, empty.
    """
    folder = tmp_path_factory.mktemp("media")
    sound = stereo(2.0)
    files = {
        "clip": write_media(folder / "clip.mp4", numbered(50), sound),
        "faststart": write_media(folder / "faststart.mp4", numbered(50), sound, container={"movflags": "faststart"}),
        "short_gop": write_media(folder / "short_gop.mp4", numbered(250), gop=12),
        "long_gop": write_media(folder / "long_gop.mp4", numbered(250), gop=250),
        "silent": write_media(folder / "silent.mp4", numbered(50)),
        "audio_only": write_media(folder / "audio_only.m4a", None, sound),
        "wav": write_media(folder / "stereo.wav", None, sound, audio_codec="pcm_s16le"),
        "portrait": write_media(folder / "portrait.mp4", numbered(10, 120, 180)),
        "wide": write_media(folder / "wide.mp4", numbered(10, 320, 120)),
        "avi": write_media(folder / "old.avi", numbered(50), sound, codec="mpeg4", audio_codec="mp2"),
        "mpg": write_media(folder / "old.mpg", numbered(50), codec="mpeg2video"),
        "ts": write_media(folder / "broadcast.ts", numbered(50)),
        "mkv": write_media(folder / "clip.mkv", numbered(50), sound),
        "adts": write_media(folder / "bare.aac", None, with_quiet_start(sound)),
        "mp3": write_media(
            folder / "bare.mp3", None, sound, audio_codec="libmp3lame", container={"id3v2_version": "0"}
        ),
    }
    files |= {name: turned(files["silent"], name) for name in ROTATIONS}
    files["edited"] = edited(files["silent"], folder / "edited.mp4", hidden_s=1)
    files["cover"] = with_cover(files["mp3"], folder / "cover.mp3")
    files["titled"] = with_title(files["wav"], folder / "titled.wav", "Gl\u00fcck".encode("latin-1"))
    files["truncated"] = cut_off(files["clip"], folder / "truncated.mp4", 0.5)
    files["truncated_faststart"] = cut_off(files["faststart"], folder / "truncated_faststart.mp4", 0.5)
    files["truncated_header"] = cut_off(files["faststart"], folder / "truncated_header.mp4", 0.005)
    for name, text in {
        "text": "This is a note, not a film.\n" * 40,
        "subtitles": "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n",
        "empty": "",
    }.items():
        files[name] = folder / f"{name}.mp4"
        files[name].write_text(text)
    return files


@pytest.fixture(scope="session")
def frame_number():
    """A function that reads the number from an upright (H, W, 3) image of `media_files`."""

    def number(image_HWC: np.ndarray) -> int:
        rows = np.asarray(image_HWC, np.float32).mean((1, 2))
        bars = [bar[len(bar) // 4 : -(len(bar) // 4)].mean() for bar in np.array_split(rows, BITS)]
        return int("".join("1" if bar > 128 else "0" for bar in bars), 2)

    return number


@pytest.fixture(scope="session")
def ray_session():
    """A Ray shared by all tests that need it. It has 4 logical CPUs on any machine, so that no task waits for ever."""
    import ray

    from emo_ray import cluster
    from emo_ray.config import load

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

    return evaluate(tiny_config)


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


def numbered(count: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 frames_THWC; bars from the top are the bits of the frame's number, the left edge is a little darker."""
    frames_THWC = np.empty((count, height, width, 3), np.uint8)
    for number, frame_HWC in enumerate(frames_THWC):
        for bar, bit in zip(np.array_split(frame_HWC, BITS), f"{number:0{BITS}b}", strict=True):
            bar[:] = 200 if bit == "1" else 40
        frame_HWC[:, : width // 2] -= 20
    return frames_THWC


def stereo(seconds: float, rate_hz: int = 48_000) -> np.ndarray:
    """int16 samples_SC: a gliding tone on the left, a beating one on the right."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    left = 0.4 * np.sin(2 * np.pi * (300 + 400 * t) * t)
    right = 0.3 * np.sin(2 * np.pi * 1500 * t) * np.sin(2 * np.pi * 3 * t)
    return np.round(np.stack([left, right], axis=1) * 32767).astype(np.int16)


def with_quiet_start(samples_SC: np.ndarray) -> np.ndarray:
    """The sound after as much silence, which compresses to almost nothing."""
    return np.concatenate([np.zeros_like(samples_SC), samples_SC])


def write_media(
    path: Path,
    frames_THWC: np.ndarray | None = None,
    samples_SC: np.ndarray | None = None,
    *,
    gop: int = 12,
    b_frames: int = 2,
    codec: str = "libx264",
    audio_codec: str = "aac",
    rate_hz: int = 48_000,
    container: dict[str, str] | None = None,
) -> Path:
    """Write frames and sound to a media file, in the container that its suffix names."""
    with av.open(str(path), "w", options=container or {}) as out:
        video = audio = None
        if frames_THWC is not None:
            video = out.add_stream(codec, rate=FPS, options={"preset": "ultrafast", "bf": str(b_frames)})
            video.height, video.width, video.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
            video.codec_context.gop_size, video.codec_context.thread_count = gop, 1
        if samples_SC is not None:
            layout = {1: "mono", 2: "stereo"}[samples_SC.shape[1]]
            audio = out.add_stream(audio_codec, rate=rate_hz, layout=layout)
        if video is not None:
            for frame_HWC in frames_THWC:
                out.mux(video.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
            out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(samples_SC.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            for part in (frame, None):
                out.mux(audio.encode(part))
    return path


def turned(path: Path, name: str) -> Path:
    """A copy of an mp4 file whose header asks viewers to turn the picture, edited byte by byte."""
    a, b, c, d = (value * 2**16 for value in ROTATIONS[name])
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, id and duration; layer, volume
    assert struct.unpack_from(">9i", data, matrix) == (2**16, 0, 0, 0, 2**16, 0, 0, 0, 2**30)
    struct.pack_into(">9i", data, matrix, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.with_name(f"{name}.mp4").write_bytes(data)
    return path.with_name(f"{name}.mp4")


def edited(path: Path, target: Path, hidden_s: int) -> Path:
    """A copy whose packets are `hidden_s` earlier: by an edit list, mp4 hides those before time zero."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(hidden_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return target


def with_cover(path: Path, target: Path) -> Path:
    """An mp3 file with an ID3v2.3 tag that holds a PNG, as music players write it."""
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "rgb24", Fraction(1, 1)
    picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
    png = b"".join(bytes(packet) for frame in (picture, None) for packet in encoder.encode(frame))
    body = b"\0image/png\0\x03\0" + png
    apic = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(apic) >> shift & 0x7F for shift in (21, 14, 7, 0))
    target.write_bytes(b"ID3\x03\0\0" + size + apic + path.read_bytes())
    return target


def with_title(path: Path, target: Path, title: bytes) -> Path:
    """A wav file with a title of any bytes."""
    item = b"INFOINAM" + struct.pack("<I", len(title)) + title + b"\0" * (len(title) % 2)
    body = path.read_bytes()[8:] + b"LIST" + struct.pack("<I", len(item)) + item
    target.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return target


def cut_off(path: Path, target: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
