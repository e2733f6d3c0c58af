"""Which shard parts a corpus consists of, where they lie, and what is left to decode."""

import pickle
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from emo_ray import durable, parquet, store
from emo_ray.config import Config
from emo_ray.config.data_settings import Scope
from emo_ray.config.media_settings import Media
from emo_ray.data import face_columns, lfs, manifest, shards
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import LEDGER, MANIFEST, Prepared
from emo_ray.data.shards import IdentifiedClip
from emo_ray.data.suffixes import is_media_file
from emo_ray.models.clip_source import image_size
from emo_ray.progress import late_progress
from emo_ray.stages.decoding.storage import check_storage

_PART_NAME = re.compile(r"part-[0-9a-f]+\.parquet")
SETTINGS = "settings.txt"
_LIGHT_PARTS, _MOST_LIGHT_CLIPS = 256, 1024  # of a corpus without media: enough parts for a cluster, and small ones


@dataclass(frozen=True)
class ShardPlan:
    """The shard parts of a corpus: their folder, the clips of each by file name, and how clips are decoded."""

    folder: Path
    clips_of: dict[str, list[IdentifiedClip]]
    media: Media
    size: int  # of the frames, pixels

    @property
    def settings(self) -> dict:
        """What decides a row beside its clip; the folder is named by its digest."""
        return shards.settings(self.media, self.size)

    @property
    def clips(self) -> list[Clip]:
        """All clips, part by part."""
        return [identified.clip for clips in self.clips_of.values() for identified in clips]

    @cached_property
    def part_of(self) -> dict[str, str]:
        """The part that holds each clip, by clip_id."""
        return {row.clip.clip_id: name for name, rows in self.clips_of.items() for row in rows}

    @cached_property
    def speaker_of(self) -> dict[str, str | None]:
        """Who speaks in each clip."""
        return {clip.clip_id: clip.speaker for clip in self.clips}

    @property
    def is_noted(self) -> bool:
        """Whether the folder says, for people, what its name is a digest of."""
        note = store.local(self.folder / SETTINGS)
        return note.is_file() and note.read_bytes() == repr(self.settings).encode()

    @property
    def shards(self) -> Path:
        """The folder of the parts, under the name that it has in a prepared corpus."""
        return self.folder

    @property
    def parts(self) -> tuple[str, ...]:
        """File names of the parts."""
        return tuple(self.clips_of)

    @cached_property
    def ledger(self) -> pa.Table:
        """The ledger of the parts, which must be decoded; the rows of each clip, in their order."""
        return pa.concat_tables([shards.ledger(self.folder / name) for name in self.clips_of])

    @property
    def is_decoded(self) -> bool:
        """Whether every part is there, and what says how they are decoded."""
        return self.is_noted and not store.missing(self.folder, self.clips_of)


Decoded = Prepared | ShardPlan  # clips in shard parts that lie in the store


def plan_shards(config: Config, root: Path, clips: Sequence[Clip]) -> ShardPlan:
    """The parts of these clips.

    Raises ValueError where no local media file exists, a bucket does not answer, or faces cannot be looked for.
    """
    check_local_files(clips)
    check_storage(clips)
    size, settings = image_size(config), media_settings(config, clips)
    face_columns.check(settings.face)
    if settings.face.which == "all":
        shards.check_clip_ids(clips)
    folder = root / "shards" / store.digest(shards.settings(settings, size))
    with late_progress("looking at media", "files") as report:
        identified_of = dict(zip(clips, shards.identified(clips, config.data.identity, report), strict=True))
    size_of_part = clips_per_part(config.media, clips)
    parts = [[identified_of[clip] for clip in part] for part in shards.assign_parts(clips, size_of_part)]
    return ShardPlan(folder, {shards.part_name(part): part for part in parts}, settings, size)


def clips_per_part(config: Media, clips: Sequence[Clip]) -> int:
    """About how many clips a part of this corpus holds.

    Rows without media are light: of many such parts each takes longer to be begun than to be worked on.
    """
    if config.clips_per_part is None and not any(clip.file for clip in clips):
        return min(max(len(clips) // _LIGHT_PARTS, config.clips_of_part), _MOST_LIGHT_CLIPS)
    return config.clips_of_part


def media_settings(config: Config, clips: Iterable[Clip]) -> Media:
    """How clips are decoded, with the detector of faces that `auto` stands for.

    Recordings as people make them show more than a face; what is known of a table is that somebody prepared it.
    """
    path = None if config.data.manifest is None else Path(config.data.manifest)
    is_media = path is not None and (path.is_dir() or is_media_file(path))
    are_recordings = (is_media and not config.data.is_synthetic) or any(clip.span_s is not None for clip in clips)
    return face_columns.with_detector(config.media, are_recordings)


def plan_prepared_folder(config: Config, path: Path) -> ShardPlan:
    """The parts of a folder that prepare made, as it lies, also where its media are gone.

    Raises ValueError where its shards are gone, or decoded with other settings than this config's, and where it names
    files of other folders: parts of the same names are written, too.
    """
    meta = store.read_meta(path)
    if odd_names := [name for name in meta["parts"] if not _PART_NAME.fullmatch(name)]:
        raise ValueError(
            f"{path / store.META}: found a part {odd_names[0]!r}, expected part-DIGEST.parquet: run jobs/prepare.py "
            "again"
        )
    folder = path.parents[1] / "shards" / meta["shards"]
    settings = config.media
    if settings.face.detector == "auto":  # what it stood for when the folder was made
        detector = (meta["settings"]["face"] or {}).get("detector", "none")
        settings = face_columns.with_changes(settings, detector=detector)
    face_columns.check_which(settings.face)
    plan = ShardPlan(folder, {name: [] for name in meta["parts"]}, settings, image_size(config))
    if store.digest(plan.settings) != meta["shards"]:
        raise ValueError(
            f"{path}: found clips decoded with {meta['settings']}, expected {plan.settings}: give the manifest that "
            "it was made from as data.manifest, and its clips are decoded anew"
        )
    missing = store.missing(folder, plan.clips_of)
    if missing:
        raise ValueError(f"{folder}: found no {missing[0]} ({len(missing)} parts are gone): run jobs/prepare.py again")
    _fill(plan, manifest.read(path / MANIFEST), path / LEDGER, config.data.identity)
    return plan


def with_people(plan: ShardPlan) -> ShardPlan:
    """The plan of parts that are decoded, with a clip for each of their rows: with `media.face.which=all` a person's.

    Such a clip is the one that the person is seen in under another clip_id; its sound and its words are the same.
    """
    if plan.media.face.which == "main":
        return plan
    clips_of: dict[str, list[IdentifiedClip]] = {}
    for name, clips in plan.clips_of.items():
        clip_of = {identified.clip.clip_id: identified for identified in clips}
        rows = parquet.read(plan.folder / name, columns=["clip_id"])["clip_id"].to_pylist()
        clips_of[name] = [_row_clip(clip_of[shards.clip_and_person(row_id)[0]], row_id) for row_id in rows]
    return replace(plan, clips_of=clips_of)


def _row_clip(identified: IdentifiedClip, row_id: str) -> IdentifiedClip:
    return replace(identified, clip=replace(identified.clip, clip_id=row_id))


def plan_some_parts(config: Config, prepared: Prepared, parts: Collection[str]) -> ShardPlan:
    """Some parts of a prepared corpus, for a config that may want them decoded otherwise: then into another folder."""
    size, settings = image_size(config), media_settings(config, prepared.clips)
    folder = prepared.shards.parent / store.digest(shards.settings(settings, size))
    plan = ShardPlan(folder, {name: [] for name in prepared.parts if name in parts}, settings, size)
    _fill(plan, prepared.clips, prepared.path / LEDGER, config.data.identity)
    return plan


def decode_tasks(plan: ShardPlan) -> dict[str, bytes]:
    """The pickled arguments of `shards.write_part` for each part that is not there yet, by its name.

    Clips that lie in parts of other corpora, such as this one before it grew, are copied from there.
    """
    missing = {name: plan.clips_of[name] for name in store.missing(plan.folder, plan.clips_of)}
    if not plan.is_noted:
        durable.write_text(plan.folder / SETTINGS, repr(plan.settings))
    if not missing:
        return {}
    other_parts = set(store.names(plan.folder, "part-*.parquet")) - plan.clips_of.keys()
    identities_of = {name: [clip.identity for clip in clips] for name, clips in missing.items()}
    decoded_in = shards.find_rows(
        plan.folder, other_parts, {i for identities in identities_of.values() for i in identities}
    )
    tasks = {}
    for name, clips in missing.items():
        part_of = {identity: decoded_in[identity] for identity in identities_of[name] if identity in decoded_in}
        tasks[name] = pickle.dumps((plan.folder / name, clips, plan.media, plan.size, part_of))
    return tasks


def local_files(clips: Iterable[Clip]) -> list[str]:
    """The paths of all media that are no URIs, each once."""
    paths = (path for clip in clips for path in (clip.video, clip.audio) if path is not None and "://" not in path)
    return list(dict.fromkeys(paths))


def _fill(plan: ShardPlan, clips: Iterable[Clip], ledger: Path, scope: Scope) -> None:
    """Put the clips of the plan's parts in, in the order of their rows, identified as when they were decoded."""
    clip_of = {clip.clip_id: clip for clip in clips}
    rows = parquet.read(ledger, columns=["clip_id", "part", "identity"])
    for row in rows.to_pylist():
        if row["part"] in plan.clips_of:
            plan.clips_of[row["part"]].append(IdentifiedClip(clip_of[row["clip_id"]], row["identity"], scope))


def no_media_reason(clips: Iterable[Clip]) -> tuple[str, str] | None:
    """Why not one local media file can be used, and what to do: none exists, or all that exist are Git LFS pointers.

    None where one can be used (no further one is looked at), and where no clip has local media.
    """
    paths = local_files(clips)
    pointers = []
    for path in paths:
        if Path(path).exists():
            if not lfs.is_pointer(path):
                return None
            pointers.append(path)
    if pointers:
        return f"found Git LFS pointers in the place of {len(pointers)} media files (first: {pointers[0]})", lfs.ADVICE
    advice = "set data.root to the folder that relative paths start from"
    if any(Path(path.replace("\\", "/")).exists() for path in paths if "\\" in path):
        advice = "write / in the place of \\, which is part of a name here and no separator"
    return (
        (f"found none of the {len(paths)} media files of the manifest (first: {paths[0]})", advice) if paths else None
    )


def check_local_files(clips: Iterable[Clip]) -> None:
    """Raises ValueError where not one local media file can be used: a wrong root or LFS pointers, not bad media."""
    if reason_and_advice := no_media_reason(clips):
        raise ValueError(", expected the files themselves: ".join(reason_and_advice))
