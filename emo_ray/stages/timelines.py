"""Emotion over time: for each recording whose utterances were predicted a page, a CSV file and subtitles."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from emo_ray import durable, parquet, store
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import face_columns, shards
from emo_ray.data.manifest import Clip
from emo_ray.progress import late_progress
from emo_ray.reports import timeline_page
from emo_ray.reports.drawings import thumbnail
from emo_ray.reports.timeline import Timeline, Utterance, csv_rows, file_names, webvtt
from emo_ray.reports.timeline_page import Still, choose_stills
from emo_ray.reports.wording import person_words, whole_percent
from emo_ray.stages.decoding.shard_plan import ShardPlan

# Of the files and of the columns; raise it when the same predictions give others. 2: a page for recordings without an
# utterance, pictures below the lanes of each person. 3: calibrated probabilities.
VERSION = 3
FOLDER = "timelines"
_AT_ONCE = 500  # recordings whose pictures are in memory together, up to 200 kB each
_BY_FACE = "p_V"  # the column of predictions that holds what the video alone says
_STATUSES = ("status", *(f"{name}_status" for name in MODALITIES))


@dataclass(frozen=True)
class Recording:
    """A media file, and the clips that are spans of it in order of time; with all people, the rows of each clip.

    `place` tells it from the others: its path below the folder that all lie in. `name` is that of its files.
    """

    place: str
    name: str
    clips: Sequence[Clip]
    status: str = ""  # why there is no utterance; then `clips` are all of the file


def recordings_of(clips: Iterable[Clip], unspoken: Mapping[str, str] | None = None) -> list[Recording]:
    """The recordings that clips with spans are cut from, and those that hold no utterance (file -> status).

    Other clips that are whole files belong to none.
    """
    status_of = unspoken or {}
    clips_of: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        file = clip.file
        if file is not None and (clip.span_s is not None or file in status_of):
            clips_of[file].append(clip)
    files = sorted(clips_of)
    places = _places(files)
    return [
        _recording(place, name, clips_of[file], status_of.get(file, ""))
        for file, place, name in zip(files, places, file_names(places), strict=True)
    ]


def _recording(place: str, name: str, clips: Sequence[Clip], status: str) -> Recording:
    ordered = sorted(clips, key=lambda clip: (clip.span_s or (), len(clip.clip_id), clip.clip_id))
    return Recording(place, name, ordered, status)


def _places(files: Sequence[str]) -> list[str]:
    """The paths or addresses below what all begin with, and without the options of an address, which may be secret."""
    words = [(file.partition("?")[0] if "://" in file else file).split("/") for file in files]
    folders = [file_words[:-1] for file_words in words]
    shared = 0
    while folders and all(len(folder) > shared and folder[shared] == folders[0][shared] for folder in folders):
        shared += 1
    return ["/".join(file_words[shared:]) for file_words in words]


def decides(recordings: Sequence[Recording]) -> dict[str, Any]:
    """What decides the files and the columns beside the predictions; empty where no clip has a span."""
    if not recordings:
        return {}
    spans = [
        [r.place, r.name, r.status, [[c.clip_id, c.span_s, c.speaker, c.text] for c in r.clips]] for r in recordings
    ]
    return {"timelines": [VERSION, store.digest(spans)]}


def with_people(predictions: pa.Table, ledger: pa.Table) -> pa.Table:
    """The rows with `clip` (its clip_id), `person`, and `is_main`: who would be predicted with media.face.which=main.

    `person` is null in clips that show nobody.
    """
    pairs = [shards.clip_and_person(row_id) for row_id in predictions["clip_id"].to_pylist()]
    main_of: dict[str, tuple[float, int]] = {}
    for i, row in enumerate(ledger.select(["clip_id", *face_columns.NAMES]).to_pylist()):
        face = face_columns.face_of(row)
        clip_id = pairs[i][0]
        weight = face.weight if face else 0.0
        if clip_id not in main_of or weight > main_of[clip_id][0]:
            main_of[clip_id] = weight, i
    columns = {
        "clip": pa.array([clip_id for clip_id, _ in pairs]),
        "person": pa.array([person or None for _, person in pairs], pa.string()),
        "is_main": pa.array([main_of[clip_id][1] == i for i, (clip_id, _) in enumerate(pairs)]),
    }
    for name, column in columns.items():
        predictions = predictions.append_column(name, column)
    return predictions


def with_spans(predictions: pa.Table, recordings: Sequence[Recording]) -> pa.Table:
    """The rows with `recording`, `start_s` and `end_s`, which are null for clips that are whole files."""
    row_of = {clip.clip_id: (r.place, clip.start_s, clip.end_s) for r in recordings for clip in r.clips if clip.span_s}
    rows = [row_of.get(clip_id, (None, None, None)) for clip_id in predictions["clip_id"].to_pylist()]
    kinds = {"recording": pa.string(), "start_s": pa.float64(), "end_s": pa.float64()}
    for i, (name, kind) in enumerate(kinds.items()):
        predictions = predictions.append_column(name, pa.array([row[i] for row in rows], kind))
    return predictions


def write(folder: Path, recordings: Sequence[Recording], plan: ShardPlan, labels: Sequence[str], model: str) -> None:
    """Write NAME.html, NAME.csv and NAME.emotions.vtt for each recording into `folder`/timelines.

    `folder` holds the predictions of the plan's parts, and pictures are taken from its shards. `model` is a name.
    """
    # A player takes NAME.emotions.vtt for subtitles of NAME.mp4; data.corpora, which would read NAME.vtt beside a
    # recording as what is said in it, does not.
    target = folder / FOLDER
    has_people = plan.media.face.which == "all"
    predictions = _predictions(folder, plan.part_of, recordings)
    with late_progress("drawing emotion over time", "recordings") as report:
        for start in range(0, len(recordings), _AT_ONCE):
            batch = recordings[start : start + _AT_ONCE]
            timelines = [_timeline(recording, labels, predictions, has_people) for recording in batch]
            stills = [choose_stills(timeline.utterances, plan.media.stored) for timeline in timelines]
            thumbnails = _thumbnails(plan, [still for some in stills for still in some])
            for i, (recording, timeline) in enumerate(zip(batch, timelines, strict=True)):
                shown = {still: thumbnails[still] for still in stills[i] if still in thumbnails}
                name = recording.name
                durable.write_text(target / f"{name}.html", timeline_page.html(timeline, name, shown, model))
                durable.write_csv(target / f"{name}.csv", csv_rows(timeline))
                durable.write_text(target / f"{name}.emotions.vtt", webvtt(timeline))
                report(start + i + 1, len(recordings))


def _predictions(
    folder: Path, part_of: Mapping[str, str], recordings: Sequence[Recording]
) -> dict[str, dict[str, Any]]:
    """The predicted rows of all recordings' clips, by clip_id, with calibrated probabilities where there are any."""
    clip_ids = {clip.clip_id for recording in recordings for clip in recording.clips}
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted({part_of[clip_id] for clip_id in clip_ids}):
        table = parquet.read(folder / name)
        probabilities = table["calibrated" if "calibrated" in table.column_names else "probabilities"]
        table = table.select(["clip_id", _BY_FACE, *_STATUSES]).append_column("probabilities", probabilities)
        rows |= {row["clip_id"]: row for row in table.to_pylist() if row["clip_id"] in clip_ids}
    return rows


def _timeline(
    recording: Recording, labels: Sequence[str], predictions: Mapping[str, dict[str, Any]], has_people: bool
) -> Timeline:
    utterances = []
    if recording.status:
        rows = [predictions[clip.clip_id]["probabilities"] for clip in recording.clips]
        return Timeline(recording.place, labels, [], _note(recording.status, labels, rows))
    for clip in recording.clips:
        assert clip.span_s is not None  # recordings with utterances have no others
        row = predictions[clip.clip_id]
        statuses = {column: row[column] for column in _STATUSES}
        words = clip.text or "", clip.speaker or ""
        seen = person_words(shards.clip_and_person(clip.clip_id)[1]) if has_people else ""
        about = (seen, row[_BY_FACE]) if seen else ()
        utterances.append(Utterance(clip.clip_id, *clip.span_s, *words, row["probabilities"], statuses, *about))
    return Timeline(recording.place, labels, utterances)


def _note(status: str, labels: Sequence[str], rows: Iterable[Sequence[float] | None]) -> str:
    """Why a recording has no utterances, and what is predicted of it as a whole."""
    tops = [max(zip(labels, row, strict=True), key=lambda pair: pair[1]) for row in rows if row is not None]
    emotions = ", ".join(f"{label} {whole_percent(probability)}" for label, probability in tops)
    whole = f" All of it is one clip, taken for {emotions}." if tops else ""
    return f"No utterance was found in this recording: {status}.{whole}"


def _thumbnails(plan: ShardPlan, stills: Iterable[Still]) -> dict[Still, bytes]:
    """Small pictures of stills, from the frames that the shards hold; each part is read once.

    Left out are those of clips without video, and of parts that somebody has taken away since.
    """
    stills_of: dict[str, dict[str, list[Still]]] = defaultdict(lambda: defaultdict(list))
    for still in stills:
        stills_of[plan.part_of[still.clip_id]][still.clip_id].append(still)
    thumbnails: dict[Still, bytes] = {}
    for name, by_clip in stills_of.items():
        if not store.exists(plan.folder / name):
            continue
        chosen = [("clip_id", "in", list(by_clip))]
        for row in parquet.read(plan.folder / name, columns=["clip_id", "frames"], filters=chosen).to_pylist():
            for still in by_clip[row["clip_id"]] if row["frames"] else ():
                thumbnails[still] = thumbnail(row["frames"][still.frame])
    return thumbnails
