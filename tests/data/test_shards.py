"""Shards: which clips are in which part, what a row holds, and when rows are decoded again."""

import io
import os
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import few_files
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emo_ray.config.media_settings import Media
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import media, shards
from emo_ray.data.manifest import Clip
from emo_ray.trouble import PlaceTrouble

CONFIG = Media(frames=4, jpeg_quality=95, patience_s=0.0)
CLIPS = st.lists(
    st.builds(Clip, st.text(min_size=1), label=st.none() | st.sampled_from(["happy", "sad"])),
    max_size=60,
    unique_by=lambda clip: clip.clip_id,
)


def corpus(count):
    return [Clip(f"clip-{i}", text="x", label="happy" if i % 5 else None) for i in range(count)]


def identified(*clips, scope="sample"):
    return shards.identified(clips, scope)


def identity(clip, scope="sample"):
    return identified(clip, scope=scope)[0].identity


def part_name(clips):
    return shards.part_name(identified(*clips))


def row_of(clip):
    (row,) = shards.rows(*identified(clip), CONFIG, 32)
    return row


def names(clips, clips_per_part=64):
    return {part_name(part) for part in shards.assign_parts(clips, clips_per_part)}


@given(clips=CLIPS, clips_per_part=st.integers(1, 70))
def test_parts_hold_every_clip_once_and_labelled_apart_from_unlabelled(clips, clips_per_part):
    parts = shards.assign_parts(clips, clips_per_part)
    assert Counter(clip for part in parts for clip in part) == Counter(clips)
    assert all(parts)
    assert all(len({clip.label is None for clip in part}) == 1 for part in parts)


@given(clips=CLIPS, seed=st.randoms(use_true_random=False))
def test_the_order_of_clips_does_not_matter(clips, seed):
    shuffled = seed.sample(clips, len(clips))
    assert shards.assign_parts(shuffled, 8) == shards.assign_parts(clips, 8)


@pytest.mark.parametrize(("count", "clips_per_part"), [(1000, 64), (5000, 64), (5000, 1), (100, 64), (1, 64)])
def test_parts_are_about_as_large_as_configured(count, clips_per_part):
    sizes = [len(part) for part in shards.assign_parts([replace(c, label="x") for c in corpus(count)], clips_per_part)]
    assert np.mean(sizes) <= max(1.6 * clips_per_part, 2)  # empty parts are left out
    assert np.mean(sizes) >= min(count, clips_per_part) / 1.6


def test_one_more_clip_changes_one_part():
    before = corpus(1000)
    for new in (Clip("new", text="x", label="happy"), Clip("new", text="x")):
        after = names([*before, new])
        assert len(names(before) - after) <= 1
        assert len(after - names(before)) == 1
    assert names(before[:-1]) ^ names(before) != set()
    assert len(names(before[1:]) ^ names(before)) <= 2


def test_rows_of_a_part_are_mixed():
    clips = [Clip(f"{label}-{i:04}", label=label) for label in ("angry", "happy") for i in range(500)]
    shares = [np.mean([clip.label == "angry" for clip in part]) for part in shards.assign_parts(clips, 64)]
    assert 0.2 < min(shares) <= max(shares) < 0.8


def test_a_part_is_named_after_the_content_of_its_rows(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"12345678")
    clip = Clip("a", video="/nowhere.mp4", audio=str(path), text="Hello", label="happy", split="train", speaker="Ann")
    name = part_name([clip])
    same = [
        replace(clip, label="sad"),
        replace(clip, label=None),
        replace(clip, split="test"),
        replace(clip, speaker="Bob"),
    ]
    assert {part_name([c]) for c in same} == {name}
    other = [
        [replace(clip, clip_id="b")],
        [replace(clip, language="en")],
        [replace(clip, text="Bye")],
        [replace(clip, text=None)],
        [replace(clip, video=None)],
        [replace(clip, video=str(path), audio="/nowhere.mp4")],
        [clip, replace(clip, clip_id="b")],
        [replace(clip, start_s=0.0, end_s=1.0)],
        [replace(clip, start_s=0.0, end_s=2.0)],
    ]
    assert len({name, *map(part_name, other)}) == 1 + len(other)
    path.write_bytes(b"123456789")
    longer = part_name([clip])
    path.write_bytes(b"12345679")
    assert len({name, longer, part_name([clip])}) == 3
    path.write_bytes(b"12345678")
    os.utime(path, (1, 1))
    assert part_name([clip]) == name


@pytest.mark.parametrize(("scope", "seen"), [("sample", [0, 150_000, 299_999]), ("content", range(0, 300_000, 37_500))])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_two_releases_with_equal_names_sizes_and_times_are_told_apart(tmp_path, scope, seen, scheme):
    path = tmp_path / "a.wav"
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    clip, identities = Clip("a", audio=f"{scheme}{path}"), []
    for place in (None, *seen):
        release = content.copy()
        if place is not None:
            release[place] ^= 1
        path.write_bytes(release)
        os.utime(path, (1, 1))
        identities.append(identity(clip, scope))
    assert len(set(identities)) == len(identities)


def test_pipes_are_not_opened_and_files_that_cannot_be_read_stop_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    clips = [Clip(name, audio=str(tmp_path / name)) for name in ("pipe.wav", "folder.wav", "none.wav")]
    assert len({clip.identity for clip in identified(*clips)}) == 3


def test_files_are_not_taken_for_unreadable_where_no_further_one_may_be_opened(media_files, tmp_path):
    clips = identified(Clip("a", audio=str(media_files["wav"])))
    with few_files():
        with pytest.raises(OSError, match="Too many open files"):
            identified(Clip("a", audio=str(media_files["wav"])))
        with pytest.raises(PlaceTrouble, match="Too many open files"):
            shards.check_unchanged(clips)
    shards.check_unchanged(clips)


@pytest.mark.parametrize("scope", ["sample", "content"])
def test_media_that_change_after_planning_are_not_stored_as_the_old_ones(media_files, tmp_path, scope):
    path, part = tmp_path / "a.wav", tmp_path / "part-x.parquet"
    path.write_bytes(media_files["wav"].read_bytes())
    clips = identified(Clip("a", audio=str(path)), scope=scope)
    status = path.stat()
    sound = bytearray(path.read_bytes())
    sound[-2] ^= 64
    path.write_bytes(sound)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(PlaceTrouble, match=r"a\.wav.*clip a"):
        shards.write_part(part, clips, CONFIG, 32)
    assert not part.exists()
    path.unlink()
    with pytest.raises(PlaceTrouble, match=r"a\.wav.*clip a"):
        shards.write_part(part, clips, CONFIG, 32)


def test_a_corpus_that_moves_keeps_its_parts(tmp_path):
    names = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "a.wav").write_bytes(b"1")
        os.utime(folder / "a.wav", (5, len(names)))
        names.append(part_name([Clip("a", audio=str(folder / "a.wav"))]))
    assert names[0] == names[1]


def test_a_changed_file_changes_the_identity_of_its_uri(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    before = identity(Clip("a", audio=f"file://{path}"))
    path.write_bytes(b"12")
    assert identity(Clip("a", audio=f"file://{path}")) != before


@pytest.mark.parametrize(
    "source", ["/nowhere", "nul\0byte", "x" * 5000, "https://example.org/a.mp4", "file:///a b", "s3://"]
)
def test_missing_media_have_an_identity_and_a_row(source):
    clip = Clip("a", video=source)
    assert identity(clip) != identity(Clip("a", video="elsewhere"))
    row = row_of(clip)
    assert (row["frames"], row["audio"], row["audio_samples"]) == (None, None, None)
    assert row["video_status"] == row["audio_status"] != "ok"


def test_everything_that_changes_rows_changes_the_settings():
    settings = [
        shards.settings(Media(**{name: value}), 224) for name, value in {"frames": 4, "jpeg_quality": 80}.items()
    ]
    settings += [
        shards.settings(Media(max_audio_s=3), 224),
        shards.settings(Media(), 224),
        shards.settings(Media(), 32),
    ]
    assert all(a != b for i, a in enumerate(settings) for b in settings[:i])
    assert shards.settings(Media(image_size=32), 224) == shards.settings(Media(), 224)  # the size that is used counts
    assert settings[0]["version"] == [shards.VERSION, media.VERSION]


def test_a_row_holds_the_decoded_media(media_files, tmp_path):
    clip = Clip("a", str(media_files["clip"]), text=" Hello\n", label="happy")
    path = tmp_path / "part-x.parquet"
    shards.write_part(path, identified(clip), CONFIG, 64)
    assert pq.read_schema(path).equals(shards.SCHEMA)
    row = pq.read_table(path).to_pylist()[0]
    frames_THWC, _ = media.read_video(clip.video, 4, 64)
    samples_S, _ = media.read_audio(clip.video, 60)
    assert row["clip_id"] == "a"
    assert row["text"] == " Hello\n"
    assert [row[f"{name}_status"] for name in MODALITIES] == ["ok"] * 3
    assert len(row["frames"]) == 4
    for jpeg, frame_HWC in zip(row["frames"], frames_THWC, strict=True):
        image = np.asarray(Image.open(io.BytesIO(jpeg)))
        assert image.shape == (64, 64, 3)
        assert np.abs(image.astype(int) - frame_HWC).mean() < 3
    np.testing.assert_array_equal(np.frombuffer(row["audio"], "<i2"), samples_S)
    assert row["audio_samples"] == len(samples_S)


def test_the_clip_s_own_sound_is_preferred_to_the_video_s(media_files):
    def samples(clip):
        return np.frombuffer(row_of(clip)["audio"], "<i2")

    video, wav = str(media_files["clip"]), str(media_files["wav"])
    np.testing.assert_array_equal(samples(Clip("a", video, wav)), media.read_audio(wav, 60)[0])
    np.testing.assert_array_equal(samples(Clip("a", video)), media.read_audio(video, 60)[0])


def test_a_clip_may_be_a_span_of_its_files(media_files):
    video, wav = str(media_files["long_gop"]), str(media_files["wav"])
    row = row_of(Clip("a", video, wav, start_s=0.5, end_s=1.25))
    np.testing.assert_array_equal(
        np.frombuffer(row["audio"], "<i2"), media.read_audio(wav, 60, span=media.Span(0.5, 1.25))[0]
    )
    assert row["audio_samples"] == 0.75 * media.RATE_HZ
    frames_THWC, _ = media.read_video(video, CONFIG.frames, 32, span=media.Span(0.5, 1.25))
    image = np.asarray(Image.open(io.BytesIO(row["frames"][0])))
    assert np.abs(image.astype(int) - frames_THWC[0]).mean() < 3
    spans = [row_of(Clip("a", video, wav, start_s=i, end_s=i + 1)) for i in (0.0, 1.0)]
    assert spans[0]["video_digest"] != spans[1]["video_digest"]


def test_limits_are_of_the_span_and_a_span_behind_the_end_is_a_status(media_files):
    config = Media(frames=2, max_audio_s=1.5, max_video_s=1.5)
    wav, video = str(media_files["wav"]), str(media_files["long_gop"])  # of 2 and 10 s

    def statuses(**span):
        (row,) = shards.rows(*identified(Clip("a", video, wav, **span)), config, 32)
        return [row[f"{name}_status"].partition(":")[0] for name in ("video", "audio")]

    assert statuses() == ["corrupt", "corrupt"]
    assert statuses(start_s=0.5, end_s=1.5) == ["ok", "ok"]
    assert statuses(start_s=20.0, end_s=21.0) == ["corrupt", "corrupt"]


@pytest.mark.parametrize(
    ("text", "kept", "status"),
    [(None, None, "missing"), ("", None, "missing: empty"), (" \n", None, "missing: empty"), ("x", "x", "ok")],
)
def test_empty_transcripts_are_missing(text, kept, status):
    row = row_of(Clip("a", text=text))
    assert (row["text"], row["text_status"]) == (kept, status)
    assert (row["video_status"], row["audio_status"]) == ("missing", "missing")


def test_the_ledger_holds_every_clip_s_statuses(media_files, tmp_path):
    clips = [
        Clip("clip", str(media_files["clip"]), text="x"),
        Clip("silent", str(media_files["silent"])),
        Clip("broken", str(media_files["truncated"]), str(media_files["wav"])),
        Clip("words", text="x"),
        Clip("gone", "/nowhere.mp4"),
    ]
    path = tmp_path / "part-x.parquet"
    shards.write_part(path, identified(*clips), CONFIG, 32)
    ledger = shards.ledger(path)
    assert ledger.schema.equals(shards.LEDGER_SCHEMA)
    rows = {row["clip_id"]: row for row in ledger.to_pylist()}
    assert list(rows) == [clip.clip_id for clip in clips]
    kinds = {name: [row[f"{m}_status"].partition(":")[0] for m in MODALITIES] for name, row in rows.items()}
    assert kinds == {
        "clip": ["ok", "ok", "ok"],
        "silent": ["ok", "missing", "missing"],
        "broken": ["corrupt", "ok", "missing"],
        "words": ["missing", "missing", "ok"],
        "gone": ["missing", "missing", "missing"],
    }
    assert rows["clip"]["audio_s"] == pytest.approx(2.0, abs=0.03)
    assert rows["broken"]["audio_s"] == 2.0
    assert rows["silent"]["audio_s"] is None
    has_digest = {name: [row[column] is not None for column in shards.CONTENT] for name, row in rows.items()}
    assert has_digest == {
        "clip": [True, True],
        "silent": [True, False],
        "broken": [False, True],
        "words": [False, False],
        "gone": [False, False],
    }
    assert {row["part"] for row in rows.values()} == {"part-x.parquet"}


def test_content_has_the_same_digest_under_another_name_and_in_another_container(media_files, tmp_path):
    (tmp_path / "copy.mp4").write_bytes(media_files["clip"].read_bytes())
    remuxed = tmp_path / "clip.mov"
    with av.open(str(media_files["clip"])) as source, av.open(str(remuxed), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    assert remuxed.read_bytes() != media_files["clip"].read_bytes()
    rows = {
        name: row_of(Clip(name, str(path)))
        for name, path in {**media_files, "copy": tmp_path / "copy.mp4", "remuxed": remuxed}.items()
    }
    for name in ("copy", "remuxed"):
        assert rows[name]["video_digest"] == rows["clip"]["video_digest"] is not None
        assert rows[name]["audio_digest"] == rows["clip"]["audio_digest"] is not None
    good = [name for name in ("clip", "short_gop", "portrait", "wide", "rotated") if rows[name]["video_status"] == "ok"]
    assert len({rows[name]["video_digest"] for name in good}) == len(good)
    assert rows["silent"]["audio_digest"] is rows["wav"]["video_digest"] is rows["text"]["video_digest"] is None


def test_blank_pictures_and_silence_have_no_digest(tmp_path):
    for name, level, sound in (("grey", 128, 0), ("hiss", 128, 1), ("tone", 128, 900)):
        frames_THWC = np.full((10, 32, 32, 3), level, np.uint8)
        samples_SC = (sound * np.sign(np.sin(np.arange(16_000)))).astype(np.int16)[:, None]
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as out:
            video, audio = out.add_stream("ffv1", rate=25), out.add_stream("pcm_s16le", rate=16_000, layout="mono")
            video.width = video.height = 32
            for frame_HWC in frames_THWC:
                out.mux(video.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
            out.mux(video.encode(None))
            frame = av.AudioFrame.from_ndarray(samples_SC.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = 16_000
            for part in (frame, None):
                out.mux(audio.encode(part))
    rows = {n: row_of(Clip(n, str(tmp_path / f"{n}.mkv"))) for n in ("grey", "hiss", "tone")}
    assert {row["video_status"] for row in rows.values()} == {row["audio_status"] for row in rows.values()} == {"ok"}
    assert {row["video_digest"] for row in rows.values()} == {None}
    assert rows["grey"]["audio_digest"] is rows["hiss"]["audio_digest"] is None
    assert rows["tone"]["audio_digest"] is not None


def test_a_part_that_exists_is_left_alone(media_files, tmp_path):
    path = tmp_path / "part-x.parquet"
    clips = [Clip("a", str(media_files["clip"]))]
    shards.write_part(path, identified(*clips), CONFIG, 32)
    content, mtime_ns = path.read_bytes(), path.stat().st_mtime_ns
    shards.write_part(path, identified(Clip("b")), CONFIG, 32)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, mtime_ns)
    shards.write_part(tmp_path / "again.parquet", identified(*clips), CONFIG, 32)
    assert (tmp_path / "again.parquet").read_bytes() == content  # same input, same bytes
    assert sorted(os.listdir(tmp_path)) == ["again.parquet", "part-x.parquet"]


def test_rows_that_another_part_has_are_copied_and_others_decoded(tmp_path):
    old, new = (Clip(name, text=f"the words of {name}") for name in ("old", "new"))
    shards.write_part(tmp_path / "before.parquet", identified(old), CONFIG, 32)
    table = pq.read_table(tmp_path / "before.parquet")
    marked = table.set_column(table.column_names.index("text"), "text", pa.array(["never said"]))
    pq.write_table(marked, tmp_path / "before.parquet")
    part_of = shards.find_rows(tmp_path, ["before.parquet"], [identity(clip) for clip in (new, old)])
    assert part_of == {identity(old): "before.parquet"}
    shards.write_part(tmp_path / "after.parquet", identified(new, old), CONFIG, 32, part_of)
    after = pq.read_table(tmp_path / "after.parquet")
    assert after["clip_id"].to_pylist() == ["new", "old"]
    assert after["text"].to_pylist() == ["the words of new", "never said"]
    assert after.schema == shards.SCHEMA


def test_a_row_that_two_parts_hold_is_copied_once(tmp_path):
    """A clip lies in the parts of every corpus that has it; which part a row comes from is what `find_rows` says."""
    both, other = Clip("both", text="a"), Clip("other", text="b")
    shards.write_part(tmp_path / "first.parquet", identified(both, other), CONFIG, 32)
    shards.write_part(tmp_path / "second.parquet", identified(both), CONFIG, 32)
    parts = ["first.parquet", "second.parquet"]
    part_of = shards.find_rows(tmp_path, parts, [item.identity for item in identified(both, other)])
    assert set(part_of.values()) == set(parts), "a test of two parts needs rows from both"
    shards.write_part(tmp_path / "third.parquet", identified(both, other), CONFIG, 32, part_of)
    assert pq.read_table(tmp_path / "third.parquet")["clip_id"].to_pylist() == ["both", "other"]
