import io
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import cross_entropy, one_hot

from emo_ray.config.media_settings import Media
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import batch, shards
from emo_ray.data.batch import AudioBatch, FeatureBatch, SoftTargets, TextBatch, VideoBatch
from emo_ray.data.dialogues import windows_of
from emo_ray.data.manifest import Clip

NAN = float("nan")
SIZES = {"video": 3, "audio": 2, "text": 1}
ABSENT = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12)
CUTS = ("whole", "slice", "take", "filter", "concat")


def jpeg(value, size=16):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def shard_rows(count, frames=2):
    """Rows of a shard without media files: row i has frames of grey 10 i + t and 5 i + 1 samples of value 100 i."""
    rows = [
        {
            "clip_id": f"c{i}",
            "frames": [jpeg(10 * i + t) for t in range(frames)],
            "audio": np.full(5 * i + 1, 100 * i, "<i2").tobytes(),
            "audio_samples": 5 * i + 1,
            "text": f"text {i}",
            **{f"{name}_status": "ok" for name in MODALITIES},
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, shards.SCHEMA)


def feature_table(present):
    """In row i, modality m is the vector (100 m + i, 100 m + i + 0.25, ...), or NaN where the mask says absent."""
    columns = {"clip_id": [f"c{i}" for i in range(len(present))], "label": pa.array(range(len(present)), pa.int64())}
    for m, (name, size) in enumerate(SIZES.items()):
        vectors = [[100 * m + i + 0.25 * d if row[m] else NAN for d in range(size)] for i, row in enumerate(present)]
        columns[name] = pa.array(vectors, pa.list_(pa.float32(), size))
        columns[f"has_{name}"] = pa.array([row[m] for row in present], pa.bool_())
    return pa.table(columns)


def cut(table, how):
    """The table cut in one of Arrow's ways, and the numbers of the rows that remain."""
    rows = list(range(len(table)))
    if how == "slice":
        return table.slice(len(table) // 3, len(table) // 2 + 1), rows[len(table) // 3 :][: len(table) // 2 + 1]
    if how == "take":
        chosen = rows[::-2] + rows[:1]
        return table.take(chosen), chosen
    if how == "filter":
        return table.filter(pc.greater(table["label"], 0)), rows[1:]
    if how == "concat":
        return pa.concat_tables([table.slice(1), table.slice(0, 1), table.slice(0, 0)]), [*rows[1:], 0]
    return table, rows


@pytest.mark.parametrize("how", CUTS)
@given(present=ABSENT)
def test_features_are_those_of_their_rows_however_the_table_was_cut(how, present):
    table, rows = cut(feature_table(present), how)
    made = batch.from_features(table)
    assert made.clip_ids == tuple(f"c{i}" for i in rows)
    assert len(made) == len(rows)
    assert made.label_B.tolist() == rows
    assert made.label_B.dtype == torch.int64
    assert made.present_BM.tolist() == [present[i] for i in rows]
    assert made.present_BM.dtype == torch.bool
    for m, (name, size) in enumerate(SIZES.items()):
        assert made.features[name].shape == (len(rows), size)
        assert made.features[name].dtype == torch.float32
        for i, vector in zip(rows, made.features[name], strict=True):
            assert vector.tolist() == [(100 * m + i + 0.25 * d) * present[i][m] for d in range(size)]


def test_feature_rows_that_are_null_are_an_error():
    column = pa.array([[1.0, 2.0], None, [5.0, 6.0]], pa.list_(pa.float32(), 2))
    table = pa.table({"clip_id": ["a", "b", "c"], "audio": column, "has_audio": [True, False, True]})
    with pytest.raises(ValueError, match="cannot reshape"):
        batch.from_features(table)


def test_a_modality_without_a_column_is_absent_for_all():
    made = batch.from_features(feature_table([[True] * 3] * 4).drop_columns(["video", "has_video", "label"]))
    assert made.present_BM.tolist() == [[False, True, True]] * 4
    assert set(made.features) == {"audio", "text"}
    assert made.label_B.tolist() == [batch.UNLABELLED] * 4


def test_rows_keep_their_speakers():
    table = feature_table([[True] * 3] * 4)
    assert batch.from_features(table).speakers is None
    made = batch.from_features(table.append_column("speaker", pa.array(["ann", None, "bo", "ann"])))
    assert made.rows(torch.tensor([3, 1])).speakers == ("ann", None)
    assert made.rows(torch.tensor([False, False, True, True])).speakers == ("bo", "ann")


def test_features_of_no_rows():
    made = batch.from_features(feature_table([[True] * 3] * 4).slice(0, 0))
    assert len(made) == 0
    assert made.present_BM.shape == (0, 3)
    assert made.features["video"].shape == (0, 3)


@pytest.mark.parametrize("how", ["whole", "slice", "take", "concat"])
def test_shard_rows_become_their_raw_input(how):
    table, rows = cut(shard_rows(6), how)
    made = {name: make(table) for name, make in batch.FROM_SHARDS.items()}
    for part in made.values():
        assert part.clip_ids == tuple(f"c{i}" for i in rows)
        assert part.present_BM.all()
        assert part.present_BM.shape == (len(rows), 3)
        assert part.label_B.tolist() == [batch.UNLABELLED] * len(rows)
        assert part.label_B.dtype == torch.int64
    assert made["text"].texts == tuple(f"text {i}" for i in rows)
    frames_BTCHW, audio_BS = made["video"].frames_BTCHW, made["audio"].audio_BS
    assert frames_BTCHW.shape == (len(rows), 2, 3, 16, 16)
    assert frames_BTCHW.dtype == torch.uint8
    greys = frames_BTCHW.float().mean((2, 3, 4))
    torch.testing.assert_close(greys, torch.tensor([[10.0 * i, 10.0 * i + 1] for i in rows]), atol=1, rtol=0)
    assert made["audio"].audio_lengths_B.tolist() == [5 * i + 1 for i in rows]
    assert audio_BS.shape == (len(rows), max(5 * i + 1 for i in rows))
    assert audio_BS.dtype == torch.float32
    for i, samples_S in zip(rows, audio_BS, strict=True):
        assert samples_S.tolist() == [100 * i / 32768] * (5 * i + 1) + [0.0] * (len(samples_S) - 5 * i - 1)


@pytest.mark.parametrize("make", batch.FROM_SHARDS.values())
def test_labels_are_those_of_the_clips(make):
    table, rows = cut(shard_rows(6), "take")
    label_B = make(table, labels={f"c{i}": 7 * i for i in range(6)}).label_B
    assert label_B.tolist() == [7 * i for i in rows]
    assert label_B.dtype == torch.int64
    with pytest.raises(KeyError, match="c1"):
        make(shard_rows(3), labels={"c0": 0, "c2": 1})


def test_real_rows_become_a_batch(media_files, tmp_path):
    rows = [
        row
        for clip in shards.identified([Clip("a", str(media_files["clip"]), text="x")], "sample")
        for row in shards.rows(clip, Media(frames=3), 64)
    ]
    table = pa.Table.from_pylist(rows, shards.SCHEMA)
    expected = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in rows[0]["frames"]])
    frames_THWC = batch.video_from_shards(table).frames_BTCHW[0].permute(0, 2, 3, 1)
    assert (frames_THWC.int() - torch.from_numpy(expected.astype(np.int32))).abs().max() <= 3  # another JPEG decoder
    audio_S = batch.audio_from_shards(table).audio_BS[0]
    np.testing.assert_array_equal(audio_S * 32768, np.frombuffer(rows[0]["audio"], "<i2"))


def test_readings_are_those_of_the_column_where_there_is_one():
    table = shard_rows(3)
    assert batch.text_from_shards(table).readings == (None,) * 3
    with_readings = table.append_column("reading", pa.array(["glad", None, "sad"]))
    assert batch.text_from_shards(with_readings.take([2, 1])).readings == ("sad", None)


def test_rows_with_a_note_are_usable():
    rows = shard_rows(2).to_pylist()
    rows[1] |= {"video_status": "ok: 1 of 188 packets unreadable", "audio_status": "ok: sound track 2 of 2"}
    table = pa.Table.from_pylist(rows, shards.SCHEMA)
    assert batch.video_from_shards(table).present_BM.all()
    assert batch.audio_from_shards(table).present_BM.all()


def test_rows_that_lack_what_is_asked_for_are_named():
    rows = shard_rows(3).to_pylist()
    rows[1] |= {"frames": None, "video_status": "corrupt: why"}
    table = pa.Table.from_pylist(rows, shards.SCHEMA)
    with pytest.raises(ValueError, match=r"clip 'c1': found no video, .*video_status"):
        batch.video_from_shards(table)
    made = batch.text_from_shards(table)
    assert made.present_BM.tolist() == [[True] * 3, [False, True, True], [True] * 3]  # what they have, asked or not


def test_the_label_of_an_unlabelled_clip_fails_wherever_it_is_used():
    label_B = batch.unlabelled(4)
    for use in (
        lambda: cross_entropy(torch.zeros(4, 3), label_B),
        lambda: cross_entropy(torch.zeros(4, 3), label_B, weight=torch.ones(3)),
        lambda: torch.ones(3)[label_B],
        lambda: one_hot(label_B, 3),
        lambda: torch.bincount(label_B),
        lambda: np.bincount(label_B.numpy()),
        lambda: np.eye(3)[label_B.numpy()],
        lambda: ("a", "b", "c")[label_B.tolist()[0]],
    ):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            use()


@given(arrays=st.lists(st.lists(st.integers(-(2**15), 2**15 - 1), max_size=20), min_size=1, max_size=5))
def test_sound_is_scaled_and_padded_with_silence(arrays):
    audio_BS, lengths_B = batch.pad_audio([np.array(samples, "<i2").tobytes() for samples in arrays])
    assert lengths_B.tolist() == [len(samples) for samples in arrays]
    assert audio_BS.shape == (len(arrays), max(map(len, arrays)))
    for samples, row in zip(arrays, audio_BS, strict=True):
        assert (row[: len(samples)] * 32768).tolist() == samples
        assert not row[len(samples) :].any()
    assert audio_BS.numel() == 0 or -1 <= audio_BS.min() <= audio_BS.max() < 1


def numbered(count):
    """A batch of each kind, in which the number of a clip decides its value in every field."""
    number_B = torch.arange(count)
    clips = {
        "clip_ids": tuple(f"c{i}" for i in range(count)),
        "present_BM": number_B[:, None] == torch.tensor([0, 1, 2]),
        "label_B": 7 * number_B,
        "soft": SoftTargets(target_BK=number_B[:, None] + torch.tensor([0.5, 0.25]), weight_B=0.5 * number_B),
    }
    return [
        VideoBatch(**clips, frames_BTCHW=number_B.view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 4, 4).to(torch.uint8)),
        AudioBatch(**clips, audio_BS=number_B[:, None] + torch.zeros(5), audio_lengths_B=10 * number_B),
        TextBatch(
            **clips,
            texts=tuple(f"text {i}" for i in range(count)),
            readings=tuple(f"reading {i}" if i % 2 else None for i in range(count)),
        ),
        FeatureBatch(
            **clips,
            features={"video": number_B[:, None] + torch.tensor([0.25, 0.5]), "text": number_B[:, None] + 0.0},
            speakers=tuple(f"speaker {i}" if i % 2 else None for i in range(count)),
        ),
    ]


def leaves(value):
    """The tensors and tuples of a batch, by name."""
    if isinstance(value, torch.Tensor | tuple):
        return {"": value}
    if value is None:
        return {}
    parts = value if isinstance(value, dict) else {field.name: getattr(value, field.name) for field in fields(value)}
    return {f"{name}.{inner}": leaf for name, part in parts.items() for inner, leaf in leaves(part).items()}


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
@given(data=st.data(), count=st.integers(1, 6))
def test_rows_are_those_of_every_field(kind, data, count):
    if kind == torch.bool:
        mask = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        index_B, rows = torch.tensor(mask), [i for i in range(count) if mask[i]]
    else:
        rows = data.draw(st.lists(st.integers(0, count - 1), max_size=8))
        index_B = torch.tensor(rows, dtype=torch.int64)
    for whole in numbered(count):
        made = whole.rows(index_B)
        assert type(made) is type(whole)
        assert len(made) == len(rows)
        chosen = leaves(made)
        for name, leaf in leaves(whole).items():
            if isinstance(leaf, tuple):
                assert chosen[name] == tuple(leaf[i] for i in rows)
            else:
                assert chosen[name].tolist() == [leaf[i].tolist() for i in rows]


def test_to_moves_every_tensor_and_keeps_the_rest():
    for made in numbered(3):
        moved = made.to("meta")
        assert type(moved) is type(made)
        after = leaves(moved)
        for name, before in leaves(made).items():
            if isinstance(before, tuple):
                assert after[name] == before
            else:
                assert after[name].device.type == "meta"
                assert (after[name].shape, after[name].dtype) == (before.shape, before.dtype)
                assert before.device.type == "cpu"
    plain = replace(made, soft=None).to("cpu")
    assert plain.soft is None


def in_a_row(count, offsets=(-2, -1, 1)):
    """Clips c0, c1, ... that follow each other, as feature rows and with their neighbours."""
    ids = [f"c{i}" for i in range(count)]
    windows = windows_of([Clip(name, dialogue="d", turn=i) for i, name in enumerate(ids)], offsets)
    made = batch.from_features(feature_table([[True, i % 2 == 0, True] for i in range(count)]))
    return batch.with_context(made, made, windows)


def seen_by(made):
    """For each clip, the clip_ids at its places; None where there is no neighbour."""
    ids = made.context.clips.clip_ids
    return [tuple(ids[place] if place >= 0 else None for place in row) for row in made.context.place_BN.tolist()]


@given(rows=st.lists(st.integers(0, 4), max_size=8))
def test_chosen_clips_keep_their_neighbours(rows):
    whole = in_a_row(5)
    expected = [tuple(f"c{i + n}" if 0 <= i + n < 5 else None for n in whole.context.offsets) for i in range(5)]
    assert seen_by(whole) == expected
    assert seen_by(whole.rows(torch.tensor(rows, dtype=torch.int64))) == [expected[i] for i in rows]
    window = whole.context.window((1, -1))
    assert seen_by(replace(whole, context=window)) == [(row[2], row[1]) for row in expected]
    with pytest.raises(ValueError, match=r"\[-3\]"):
        whole.context.window((-3, 1))


def test_another_device_gets_the_neighbours_that_it_needs_and_no_others():
    made = in_a_row(50).rows(torch.tensor([10, 20]))
    moved = made.to("meta")
    assert set(moved.context.clips.clip_ids) == {"c8", "c9", "c11", "c18", "c19", "c21"}
    assert moved.context.clips.features["video"].device.type == moved.context.place_BN.device.type == "meta"
    assert made.to("cpu").context is made.context


def test_what_is_hidden_is_hidden_in_neighbours_too():
    made = in_a_row(4).showing(torch.tensor([True, False, False]))
    for clips in (made, made.context.clips):
        assert clips.present_BM.tolist() == [[True, False, False]] * 4


def test_neighbours_without_features_are_absent_and_clips_of_no_dialogue_have_none():
    windows = windows_of([Clip(name, dialogue="d", turn=i) for i, name in enumerate(("c1", "x", "c0"))], (-1, 1))
    made = batch.from_features(feature_table([[True] * 3] * 3))
    assert seen_by(batch.with_context(made, made, windows)) == [(None, None)] * 3
    nobody = batch.with_context(made, made.rows(torch.tensor([], dtype=torch.int64)), windows)
    assert (nobody.to("meta").context.place_BN.shape, len(nobody.context.clips)) == ((3, 2), 3)
