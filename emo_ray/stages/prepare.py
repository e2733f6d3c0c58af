"""prepare: a corpus on disk to a checked manifest, splits, and decoded shards.

Every part is one task and one file named after its content, so a killed run goes on where it stopped, a second run
decodes nothing, and corpora that share clips in equal parts share files.
"""

import csv
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.config.data_settings import Media, Tables
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import corpora, labels, manifest, shards, splits, synthetic
from emo_ray.data.batch import video_from_shards
from emo_ray.data.manifest import Clip
from emo_ray.models.clip_source import image_size
from emo_ray.progress import progress, say
from emo_ray.reports.contact_sheet import STILLS, contact_sheet

VERSION = 2  # 2: the ledger holds the digests of the content
MANIFEST, LEDGER, BAD_MEDIA, SHEET = "manifest.parquet", "ledger.parquet", "bad_media.csv", "contact_sheet.png"


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus: its folder, its clips with splits, its K labels, and where its shards lie."""

    path: Path
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    shards: Path  # the folder of parts
    parts: tuple[str, ...]  # the file names in it that are this corpus's

    @property
    def ledger(self) -> pa.Table:
        """One row per clip, in the order of the parts: `clip_id, part, audio_s`, statuses and digests."""
        return pq.read_table(self.path / LEDGER)

    def summary(self) -> dict:
        """What a user wants to know at a glance."""
        statuses = {m: Counter(_kind(s) for s in self.ledger[f"{m}_status"].to_pylist()) for m in MODALITIES}
        return {
            "clips": len(self.clips),
            "labels": list(self.labels),
            "splits": dict(Counter(clip.split for clip in self.clips)),
            **{name: dict(counts) for name, counts in statuses.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ShardPlan:
    """The shard parts of a corpus: their folder, the clips of each by file name, and how clips are decoded."""

    folder: Path
    clips_of: dict[str, list[Clip]]
    media: Media
    size: int  # of the frames, pixels

    @property
    def settings(self) -> dict:
        """What decides a row beside its clip; the folder is named by its digest."""
        return shards.settings(self.media, self.size)


def prepare(config: Config) -> Prepared:
    """Read the corpus that `config.data` names, cut splits, decode what is not decoded yet.

    Raises ValueError for a manifest that cannot be used; bad media are rows with a status and lines of bad_media.csv.
    """
    cluster.connect(config)
    root = cluster.store_root(config)
    clips = _clips(config, root)
    names, clips, notes = _labels_and_splits(config, clips)
    plan = _plan(config, root, clips)
    meta = {
        "kind": "prepared",
        "version": VERSION,
        "labels": names,
        "notes": notes,
        "shards": plan.folder.name,
        "parts": list(plan.clips_of),
        "settings": plan.settings,
    }
    path = root / "prepared" / store.digest(meta, [[c.clip_id, c.label, c.split, c.speaker] for c in clips])
    if not store.is_complete(path) or not all((plan.folder / name).exists() for name in plan.clips_of):
        _check_weights(config)
        for note in notes:
            say(note)
        _decode(plan)
        with store.writing(path, meta) as temporary:
            ledger = pa.concat_tables([shards.ledger(plan.folder / name) for name in plan.clips_of])
            manifest.write(temporary / MANIFEST, clips)
            store.write_parquet(temporary / LEDGER, ledger, rows_per_group=2**16)
            _write_bad_media(temporary / BAD_MEDIA, clips, ledger)
            _write_sheet(temporary / SHEET, clips, names, plan.folder, ledger)
    prepared = Prepared(path, tuple(clips), names, tuple(notes), plan.folder, tuple(plan.clips_of))
    say(_sentence(prepared.summary(), config.tables))
    return prepared


def _check_weights(config: Config) -> None:
    """Raises ValueError for a pretrained tag that there is not, before an hour of decoding and not after it."""
    from emo_ray.models.clip import check_tag  # open_clip takes seconds to import

    check_tag(config)


def plan_shards(config: Config) -> ShardPlan:
    """The parts of the corpus that `config.data` names, which needs no labels and is not split: to use a model on it.

    A folder that prepare made is taken as it lies, also where its media are gone.
    """
    given = Path(config.data.manifest or "")
    if (given / LEDGER).is_file() and store.is_complete(given):
        return _plan_of_prepared(config, given.absolute())
    root = cluster.store_root(config)
    return _plan(config, root, _clips(config, root))


def _plan(config: Config, root: Path, clips: Sequence[Clip]) -> ShardPlan:
    _check_files(clips)
    size = image_size(config)
    folder = root / "shards" / store.digest(shards.settings(config.media, size))
    parts = shards.assign_parts(clips, config.media.clips_per_part)
    return ShardPlan(folder, {shards.part_name(part): part for part in parts}, config.media, size)


def _plan_of_prepared(config: Config, path: Path) -> ShardPlan:
    """Raises ValueError where its shards are gone, or decoded with other settings than this config's."""
    about = store.read_meta(path)
    folder = path.parents[1] / "shards" / about["shards"]
    plan = ShardPlan(folder, {name: [] for name in about["parts"]}, config.media, image_size(config))
    if store.digest(plan.settings) != folder.name:
        raise ValueError(
            f"{path}: found clips decoded with {about['settings']}, expected {plan.settings}: give the manifest that "
            "it was made from as data.manifest, and its clips are decoded anew"
        )
    lost = [name for name in plan.clips_of if not (folder / name).exists()]
    if lost:
        raise ValueError(f"{folder}: found no {lost[0]} ({len(lost)} parts are gone): run jobs/prepare.py again")
    _fill(plan.clips_of, manifest.read(path / MANIFEST), path / LEDGER)
    return plan


def plan_some_parts(config: Config, prepared: Prepared, parts: Collection[str]) -> ShardPlan:
    """Some parts of a prepared corpus, for a config that may want them decoded otherwise: then into another folder."""
    size = image_size(config)
    folder = prepared.shards.parent / store.digest(shards.settings(config.media, size))
    clips_of: dict[str, list[Clip]] = {name: [] for name in prepared.parts if name in parts}
    _fill(clips_of, prepared.clips, prepared.path / LEDGER)
    return ShardPlan(folder, clips_of, config.media, size)


def _fill(clips_of: dict[str, list[Clip]], clips: Iterable[Clip], ledger: Path) -> None:
    """Put the clips of these parts in, in the order of their rows."""
    clip_of = {clip.clip_id: clip for clip in clips}
    rows = pq.read_table(ledger, columns=["clip_id", "part"])
    for clip_id, part in zip(rows["clip_id"].to_pylist(), rows["part"].to_pylist(), strict=True):
        if part in clips_of:
            clips_of[part].append(clip_of[clip_id])


def _clips(config: Config, root: Path) -> list[Clip]:
    data = config.data
    if data.corpus == "synthetic" or (data.manifest is None and data.corpus == "auto"):
        return _synthesise(config, root)
    return _without_needless_media(corpora.read_corpus(data, bare=bool(config.tables.given)), config.tables)


def _without_needless_media(clips: list[Clip], tables: Tables) -> list[Clip]:
    """The clips without media that feature tables replace, for decoding is what costs; all media where none is there.

    A video is kept as long as its sight or its sound may be wanted.
    """
    local = _local_files(clips) if tables.given else []
    gone = bool(local) and not any(Path(path).exists() for path in local)
    if gone:
        say(f"found none of the {len(local)} media files of the manifest (first: {local[0]}): tables alone are used")
    needless = gone or {"video", "audio"} <= set(tables.given)
    return [replace(clip, video=None, audio=None) for clip in clips] if needless else clips


def _labels_and_splits(config: Config, clips: list[Clip]) -> tuple[tuple[str, ...], list[Clip], list[str]]:
    """The labels in index order, the clips with splits, and notes. With fewer than two labels nothing is cut."""
    found = {clip.label for clip in clips if clip.label is not None and clip.split != "unlabelled"}
    if len(found) < 2 and config.data.labels is None:
        unsplit = {False: "train", True: "unlabelled"}
        clips = [replace(c, split=c.split or unsplit[c.label is None]) for c in clips]
        return tuple(found), clips, [f"found {len(found)} label(s): nothing to train on, and no splits are cut"]
    names = labels.vocabulary([c.label for c in clips if c.split != "unlabelled"], config.data.labels)
    return names, *splits.assign(clips, config.data, config.seed)


def _synthesise(config: Config, root: Path) -> list[Clip]:
    """Make the demo corpus in the store, in parallel; clips that are there already are kept."""
    folder = root / "corpora" / f"synthetic-{store.digest(synthetic.digest_parts(config.synthetic))}"
    if not store.is_complete(folder):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        batches = _chunks(synthetic.write_scripts(config.synthetic), 16)

        def render(scripts: bytes) -> bytes:
            return pickle.dumps([synthetic.render(script, folder) for script in pickle.loads(scripts)])

        rendered = _parallel(render, [pickle.dumps(b) for b in batches], "synthesising clips", list(map(len, batches)))
        clips = sorted((clip for part in rendered for clip in pickle.loads(part)), key=lambda c: c.clip_id)
        manifest.write(folder / MANIFEST, clips)
        store.write_text(folder / store.META, '{"kind": "corpus"}')
    return manifest.read(folder / MANIFEST)


def decode_tasks(plan: ShardPlan) -> dict[str, bytes]:
    """The pickled arguments of `shards.write_part` for each part that is not there yet, by its name.

    Clips that lie in parts of other corpora, such as this one before it grew, are copied from there.
    """
    todo = {name: clips for name, clips in plan.clips_of.items() if not (plan.folder / name).exists()}
    if not todo:
        return {}
    store.write_text(plan.folder / "settings.txt", repr(plan.settings))
    others = {path.name for path in plan.folder.glob("part-*.parquet")} - plan.clips_of.keys()
    identities = {name: [shards.identity(clip) for clip in clips] for name, clips in todo.items()} if others else {}
    found = shards.find(plan.folder, others, {one for ones in identities.values() for one in ones})
    tasks = {}
    for name, clips in todo.items():
        known = {one: found[one] for one in identities.get(name, ()) if one in found}
        tasks[name] = pickle.dumps((plan.folder / name, clips, plan.media, plan.size, known))
    return tasks


def _decode(plan: ShardPlan) -> None:
    """Decode the parts that are not there yet, in parallel."""
    tasks = decode_tasks(plan)

    def decode(task: bytes) -> bytes:  # nested functions travel by value: workers import only what they use
        shards.write_part(*pickle.loads(task))
        return b""

    sizes = [len(plan.clips_of[name]) for name in tasks]
    total = sum(map(len, plan.clips_of.values()))
    if tasks and sum(sizes) < total:
        say(f"{total - sum(sizes)} of {total} clips are decoded already")
    _parallel(decode, list(tasks.values()), "decoding clips", sizes)


def _parallel(work: Callable[[bytes], bytes], tasks: Sequence[bytes], title: str, sizes: Sequence[int]) -> list[bytes]:
    """Run `work` over pickled tasks as Ray Data tasks, with a progress bar in clips. Results come in any order."""
    if not tasks:
        return []

    def run(row: dict) -> dict:
        return {"size": row["size"], "result": work(row["task"])}

    rows = [{"task": task, "size": size} for task, size in zip(tasks, sizes, strict=True)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run, num_cpus=cluster.task_cpus())
    results = []
    with progress(title, sum(sizes), "clips") as advance:
        for row in dataset.iter_rows():
            results.append(row["result"])
            advance(row["size"])
    return results


def _chunks(items: Sequence, size: int) -> list:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _check_files(clips: Iterable[Clip]) -> None:
    """Raises ValueError where not one local media file exists: that is a wrong root, not bad media."""
    local = _local_files(clips)
    if local and not any(Path(path).exists() for path in local):
        raise ValueError(
            f"found none of the {len(local)} media files of the manifest (first: {local[0]}), expected them there: "
            "set data.root to the folder that relative paths start from"
        )


def _local_files(clips: Iterable[Clip]) -> list[str]:
    return [path for clip in clips for path in (clip.video, clip.audio) if path is not None and "://" not in path]


def _write_bad_media(path: Path, clips: Iterable[Clip], ledger: pa.Table) -> None:
    """The ledger of what could not be used: one line per clip and modality, with the file and the reason."""
    by_id = {clip.clip_id: clip for clip in clips}
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "modality", "status", "file"])
        for row in ledger.to_pylist():
            clip = by_id[row["clip_id"]]
            files = {"video": clip.video, "audio": clip.audio or clip.video, "text": None}
            for name in MODALITIES:
                if row[f"{name}_status"] not in ("ok", "missing"):
                    writer.writerow([clip.clip_id, name, row[f"{name}_status"], files[name] or ""])


def _write_sheet(path: Path, clips: Iterable[Clip], labels: Sequence[str], folder: Path, ledger: pa.Table) -> None:
    """Some clips of every label that has any with video, as pictures, from the decoded frames."""
    usable = ledger.filter(pc.equal(ledger["video_status"], "ok"))
    part_of = dict(zip(usable["clip_id"].to_pylist(), usable["part"].to_pylist(), strict=True))
    chosen: dict[str, list[str]] = {label: [] for label in labels}
    for clip in clips:
        if clip.clip_id in part_of and clip.label in chosen and len(chosen[clip.label]) < STILLS:
            chosen[clip.label].append(clip.clip_id)
    frames = {}
    for name in sorted({part_of[clip_id] for ids in chosen.values() for clip_id in ids}):
        table = pq.read_table(folder / name, columns=["clip_id", "frames", *(f"{m}_status" for m in MODALITIES)])
        table = table.filter(pc.is_in(table["clip_id"], pa.array([i for ids in chosen.values() for i in ids])))
        batch = video_from_shards(table)
        frames |= dict(zip(batch.clip_ids, batch.frames_BTCHW.permute(0, 1, 3, 4, 2).numpy(), strict=True))
    rows = {
        label: ([frames[i][len(frames[i]) // 2] for i in ids], frames[ids[0]]) for label, ids in chosen.items() if ids
    }
    if rows:
        path.write_bytes(contact_sheet(rows))


def _kind(status: str) -> str:
    return status.partition(":")[0]


def _sentence(summary: dict, tables: Tables) -> str:
    parts = [f"{count} {split}" for split, count in summary["splits"].items()]
    media = [
        f"{name} {', '.join(f'{n} {kind}' for kind, n in sorted(summary[name].items(), key=lambda i: i[0] != 'ok'))}"
        if name not in tables.given
        else f"{name} from tables"
        for name in MODALITIES
    ]
    return f"{summary['clips']} clips ({', '.join(parts)}); {'; '.join(media)}"
