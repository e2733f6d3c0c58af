"""Manifests of any content: every row that holds something becomes a clip, or an error names the file.

Tables are written by csv, json and pyarrow alone.
"""

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from properties import holds_for, result_or_message

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.corpora.reader import read_corpus

TEXT = st.text(max_size=12)  # any Unicode: line breaks, quotes, tabs and nulls too
ODD = st.sampled_from(
    ["nan", "NaN", "None", "NA", "null", "Unknown", "0", "01", "1e999", "-0.0", " ", "\0", "=1+1", '"']
)
CELL = st.one_of(TEXT, ODD)
HEADERS = [
    *("clip_id", "id", "name", "video", "audio", "wav", "file", "path", "text", "utterance", "label", "emotion"),
    *("split", "partition", "speaker", "actor", "language", "start", "end", "start_s", "end_time", "note", "index"),
    *("Unnamed: 0", ""),
]
HEADER = st.one_of(st.sampled_from(HEADERS), TEXT)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "gbk", "shift_jis", "latin-1")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# As pandas, R, spreadsheets, databases and people spell a value that is not there.
NO_VALUE = {
    "",
    "nan",
    "na",
    "n/a",
    "n.a.",
    "<na>",
    "#n/a",
    "nat",
    "null",
    "none",
    "nil",
    "unknown",
    "unk",
    "?",
    "-",
    "--",
}
NO_VALUE |= {"-", "--", "undefined", "missing", "not available", "unknown speaker", "speaker unknown"}
LABELS = ("happy", "sad", "ängstlich", "悲")
SPLITS = ("train", "validation", "test", "unlabelled")
WORD = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=6)


def read(path, **settings):
    """The clips of a table, or None and the error's message, which names the file."""
    clips, message = result_or_message(lambda: read_corpus(Data(manifest=str(path), **settings))[0])
    if clips is None:
        assert str(path) in message
        return None, message
    ids = [clip.clip_id for clip in clips]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    assert all(clip.split in (None, *SPLITS) for clip in clips)
    manifest.write(path.with_name("written"), clips)
    assert manifest.read(path.with_name("written")) == clips
    return clips, ""


def write(path, headers, rows):
    """Write a table of strings, whose rows have the headers' order."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([headers, *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(headers, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    else:
        columns = dict(zip(headers, zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}), path)
    return path


@holds_for(
    80,
    rows=st.lists(
        st.tuples(WORD, CELL, st.sampled_from(["", *LABELS]), CELL, CELL),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[0],
    ),
    blank=st.lists(st.integers(0, 8), max_size=3),
    suffix=st.sampled_from(SUFFIXES),
)
def test_every_row_that_holds_something_is_a_clip_in_its_place(folder, rows, blank, suffix):
    headers = ["clip_id", "text", "label", "speaker", "language"]
    with_blank = list(rows)
    for place in blank:
        with_blank.insert(place, ("",) * len(headers))
    clips, message = read(write(folder / f"clips{suffix}", headers, with_blank))
    assert clips is not None, message
    assert [clip.clip_id for clip in clips] == [row[0] for row in rows]
    for clip, (_, text, label, speaker, language) in zip(clips, rows, strict=True):
        assert (clip.label or "") == label
        for value, cell in ((clip.text, text), (clip.speaker, speaker.strip()), (clip.language, language.strip())):
            assert (value or "") == cell or (value is None and cell.strip().lower() in NO_VALUE)


@holds_for(
    120,
    headers=st.lists(HEADER, min_size=1, max_size=6),
    rows=st.lists(st.lists(CELL, max_size=7), max_size=5),
    suffix=st.sampled_from((".csv", ".tsv")),
    encoding=st.sampled_from(ENCODINGS),
    lineterminator=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_text_of_any_columns_and_cells_is_clips_or_an_error(folder, headers, rows, suffix, encoding, lineterminator):
    stream = io.StringIO()
    delimiter = "\t" if suffix == ".tsv" else ","
    csv.writer(stream, delimiter=delimiter, lineterminator=lineterminator).writerows([headers, *rows])
    path = folder / f"odd{suffix}"
    path.write_bytes(stream.getvalue().encode(encoding, errors="replace"))
    read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(HEADER, value, max_size=3),
    max_leaves=8,
)


@holds_for(
    100,
    lines=st.lists(st.dictionaries(HEADER, JSON, max_size=5) | JSON, max_size=5),
    is_ascii=st.booleans(),
    junk=st.sampled_from(["", "\n", "{", "\ud800", '{"text": "\\ud83d"}', "\ufeff", "\0"]),
)
def test_lines_of_any_json_are_clips_or_an_error(folder, lines, is_ascii, junk):
    text = "\n".join([*(json.dumps(line, ensure_ascii=is_ascii) for line in lines), junk])
    path = folder / "odd.jsonl"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    read(path)


COLUMNS = st.one_of(
    *[
        st.lists(st.none() | cells, min_size=3, max_size=3).map(lambda values, kind=kind: pa.array(values, kind))
        for cells, kind in [
            (CELL, pa.string()),
            (CELL, pa.large_string()),
            (CELL, pa.dictionary(pa.int8(), pa.string())),
            (st.binary(max_size=4), pa.binary()),
            (st.integers(-(2**31), 2**31 - 1), pa.int32()),
            (st.integers(0, 2**64 - 1), pa.uint64()),
            (st.floats(width=32), pa.float32()),
            (st.booleans(), pa.bool_()),
            (st.dates(), pa.date32()),
            (st.datetimes(), pa.timestamp("us")),
            (st.timedeltas(timedelta(-999), timedelta(999)), pa.duration("us")),
            (st.lists(st.integers(0, 9), max_size=2), pa.list_(pa.int64())),
            (st.fixed_dictionaries({"bytes": st.binary(max_size=3)}), pa.struct({"bytes": pa.binary()})),
            (st.decimals(-99, 99, places=2), pa.decimal128(9, 2)),
            (st.none(), pa.null()),
        ]
    ]
)


@holds_for(100, columns=st.lists(st.tuples(HEADER, COLUMNS), min_size=1, max_size=5))
def test_parquet_columns_of_any_type_are_clips_or_an_error(folder, columns):
    names, arrays = zip(*columns, strict=True)
    path = folder / "odd.parquet"
    pq.write_table(pa.Table.from_arrays(list(arrays), names=list(names)), path)
    read(path)


@holds_for(
    120,
    content=st.binary(max_size=120)
    | st.text(max_size=60).map(lambda text: ("text,label\n" + text).encode(errors="replace"))
    | st.binary(max_size=60).map(lambda data: b"PAR1" + data + b"PAR1"),
    suffix=st.sampled_from(SUFFIXES),
)
def test_any_bytes_are_clips_or_an_error(folder, content, suffix):
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    read(path)


@holds_for(
    100,
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1) | st.just(1.0),
    suffix=st.sampled_from(SUFFIXES),
)
def test_damaged_tables_are_clips_or_an_error(folder, places, cut, suffix):
    rows = [(f"{name}.mp4", f"“{name}”, said she", name.upper()) for name in ("ä", "b", "c", "悲")]
    path = write(folder / f"damaged{suffix}", ["video", "text", "label"], rows)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[int(place * len(content))] = value
    path.write_bytes(content[: round(cut * len(content))])
    read(path)


@holds_for(
    60, headers=st.permutations(["video", "text", "label", "who", ""]), field=st.sampled_from(["label", "speaker"])
)
def test_the_order_of_columns_is_no_matter(folder, headers, field):
    rows = [{"video": f"{i}.mp4", "text": f"t{i}", "label": "xy"[i % 2], "who": f"p{i}", "": ""} for i in range(4)]
    path = write(folder / "clips.csv", headers, [[row[header] for header in headers] for row in rows])
    clips, message = read(path, columns={field: "who"})
    assert clips is not None, message
    expected, _ = read(write(folder / "clips.csv", list(rows[0]), [list(row.values()) for row in rows]))
    assert [getattr(clip, field) for clip in clips] == [row["who"] for row in rows]
    assert [replace(clip, **{field: None}) for clip in clips] == [replace(clip, **{field: None}) for clip in expected]


@holds_for(
    60,
    names=st.lists(st.sampled_from(["Sad", "sad", " SAD", "sa d", "Joy", "joy ", "Angst", "ängstlich"]), min_size=1),
    suffix=st.sampled_from(SUFFIXES),
)
def test_labels_in_several_spellings_are_an_error_or_merged(folder, names, suffix):
    path = write(folder / f"clips{suffix}", ["text", "label"], [(f"t{i}", name) for i, name in enumerate(names)])
    spellings = {name.strip() for name in names}
    folded = {name: "".join(name.split()).casefold() for name in spellings}
    clips, message = read(path)
    assert (clips is None) == (len(set(folded.values())) < len(spellings)), message
    merged, message = read(path, merge_labels=True)
    assert merged is not None, message
    assert [folded[clip.label] for clip in merged] == [folded[name.strip()] for name in names]
    assert len({clip.label for clip in merged}) == len(set(folded.values()))


@holds_for(
    60,
    names=st.lists(st.sampled_from(["train", "Dev", "devel", "VAL", "test", "Test1", "holdout", ""]), min_size=1),
    split_map=st.dictionaries(
        st.sampled_from(["train", "devel", "Test1", "holdout", "x"]), st.none() | st.sampled_from(SPLITS), max_size=3
    ),
)
def test_names_of_splits_are_understood_mapped_or_an_error(folder, names, split_map):
    path = write(folder / "clips.csv", ["text", "split"], [(f"t{i}", name) for i, name in enumerate(names)])
    clips, message = read(path, split_map=split_map)
    kept = [(f"t{i}", name) for i, name in enumerate(names) if split_map.get(name, "") is not None]
    if clips is None:
        assert "split_map" in message
        assert not kept or {name for _, name in kept} & {"holdout", "Test1"}
        return
    assert [clip.text for clip in clips] == [text for text, _ in kept]
    for clip, (_, name) in zip(clips, kept, strict=True):
        usual = {"": None, "Dev": "validation", "devel": "validation", "VAL": "validation", "Test1": "test"}
        assert clip.split == split_map.get(name, usual.get(name, name))


PATTERNS = TEXT | st.lists(st.sampled_from(["Raw/", "{a}", "{b}", "{c}", "{", "}", ".mp4", "a"]), max_size=5).map(
    "".join
)


@holds_for(
    80,
    columns=st.dictionaries(
        st.sampled_from(["clip_id", "video", "text", "label", "split", "speaker"]),
        st.none() | PATTERNS | st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=3).map(tuple),
        max_size=3,
    ),
    rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4),
)
def test_columns_of_any_pattern_are_clips_or_an_error(folder, columns, rows):
    read(write(folder / "clips.csv", ["a", "b", "text"], rows), columns=columns)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_of_blank_rows_alone_is_an_error(tmp_path, suffix):
    clips, message = read(write(tmp_path / f"clips{suffix}", ["video", "text"], [("", " "), ("", "")]))
    assert clips is None
    assert "rows" in message or "clips" in message
