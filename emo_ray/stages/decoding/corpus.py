"""A corpus on disk to a checked manifest, splits, and decoded shards.

Every part is one task and one file named after its content, so a killed run goes on where it stopped, a second run
decodes nothing, and corpora that share clips in equal parts share files.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emo_ray import cluster, parquet, resources, store, trouble
from emo_ray.config import Config, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.config.table_settings import Tables
from emo_ray.data import labels, manifest, shards, splits, synthetic
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest import checks as clip_checks
from emo_ray.data.prepared import BAD_MEDIA, LEDGER, MANIFEST, MEDIA_NOTES, Prepared
from emo_ray.data.roots import check_inside, root_of
from emo_ray.models.clip_source import clip_source
from emo_ray.progress import progress, say
from emo_ray.stages.decoding.inspection import (
    measure_bad_media,
    write_bad_media,
    write_contact_sheet,
    write_media_notes,
)
from emo_ray.stages.decoding.shard_plan import (
    ShardPlan,
    decode_tasks,
    no_media_reason,
    plan_prepared_folder,
    plan_shards,
    with_people,
)

VERSION = 5  # 2: the ledger holds the digests of the content; 3: and the identities; 4: faces; 5: dialogues and folds
SHEET = "contact_sheet.png"
_CLIPS_PER_TASK = 48  # of synthesis, two seconds: Ray Data takes a fifth of one to hand out the next task


def prepare_corpus(config: Config, fewest_labels: int = 0) -> Prepared:
    """Read the corpus that `config.data` names, cut splits, decode what is not decoded yet.

    Ray is started only where something is left to decode. Raises ValueError for a manifest that cannot be used, and
    before anything is decoded for one with less labels than the job needs; bad media are rows with a status and lines
    of bad_media.csv.
    """
    if config.media.face.which == "all":
        raise ValueError(
            "media.face.which=all: found a job that prepares clips with labels, expected media.face.which=main: a "
            "label is one person's, and nothing tells whose; rows of all people are for jobs/predict.py"
        )
    prepared, plan = resolve_corpus(config)
    if len(prepared.labels) < fewest_labels:
        raise ValueError(labels.too_few(prepared.labels, Path(config.data.manifest or "").is_dir()))
    if not store.is_complete(prepared.path) or not plan.is_decoded:
        _check_weights(config)
        for note in prepared.notes:
            say(note)
        decode(config, plan)
    store.artefact(prepared.path, _meta(prepared, plan), lambda folder: _write(folder, prepared, plan))
    measure_bad_media(prepared.ledger)
    say(_sentence(prepared.counts(), config.tables))
    return prepared


def resolve_corpus(config: Config) -> tuple[Prepared, ShardPlan]:
    """The corpus as it lies or will lie in the store, with its splits, and how it is decoded.

    Nothing is decoded for it; a synthetic corpus that is not there is made. Raises ValueError for a manifest that
    cannot be used.
    """
    root = cluster.store_root(config)
    imported_clips, import_notes = _read_clips(config)
    names, clips, split_notes = _labels_and_splits(config, imported_clips)
    notes = (*import_notes, *split_notes)
    plan = plan_shards(config, root, clips)
    prepared = Prepared(root / "prepared", tuple(clips), names, notes, plan.folder, tuple(plan.clips_of))
    rows = [
        [c.clip_id, c.label, c.split, c.speaker, c.dialogue, c.turn, *filter(None, (c.fold, c.votes))] for c in clips
    ]
    key = store.digest(_meta(prepared, plan), rows)
    return replace(prepared, path=prepared.path / key), plan


def _meta(prepared: Prepared, plan: ShardPlan) -> dict[str, Any]:
    return {
        "kind": "prepared",
        "version": VERSION,
        "labels": prepared.labels,
        "notes": prepared.notes,
        "shards": prepared.shards.name,
        "parts": prepared.parts,
        "settings": plan.settings,
    }


def plan_corpus(config: Config, cut: Callable[[Config, list[Clip]], list[Clip]] | None = None) -> ShardPlan:
    """The parts of the corpus that `config.data` names, which needs no labels and is not split: to use a model on it.

    `cut` may put other clips in the place of some. A folder that prepare made is taken as it lies, also where its media
    are gone.
    """
    folder = Path(config.data.manifest or "")
    if (folder / LEDGER).is_file() and store.is_complete(folder):
        return plan_prepared_folder(config, folder.absolute())
    clips, notes = _read_clips(override(config, {"data.merge_labels": True}))  # spellings of labels do not matter here
    for note in notes:
        say(note)
    return plan_shards(config, cluster.store_root(config), cut(config, clips) if cut else clips)


def _check_weights(config: Config) -> None:
    """Raises ValueError for a pretrained tag that does not exist: before an hour of decoding and not after it."""
    if isinstance(clip_source(config).weights, str):
        from emo_ray.models.clip import check_tag  # open_clip takes seconds to import

        check_tag(config)


def _read_clips(config: Config) -> tuple[list[Clip], list[str]]:
    """The clips of the corpus, and the importer's notes for the user."""
    if config.data.is_synthetic:
        return _synthesise(config), []
    bare = bool(config.tables.given)
    clips, notes = read_corpus(config.data, bare)
    if bare:
        clips = _without_needless_media(clips, config.tables)
        media = manifest.media_by_place({f"clip {clip.clip_id!r}": clip for clip in clips})
        check_inside(media, root_of(config.data), config.data, str(config.data.manifest))
        clip_checks.check_files(clips, str(config.data.manifest))
    return clips, notes


def _without_needless_media(clips: list[Clip], tables: Tables) -> list[Clip]:
    """The clips without media that feature tables replace, for decoding is what costs; all media where none is there.

    A video is kept as long as its sight or its sound may be needed.
    """
    reason_and_advice = no_media_reason(clips)
    if reason_and_advice:
        say(f"{reason_and_advice[0]}: tables alone are used")
    needless = reason_and_advice is not None or {"video", "audio"} <= set(tables.given)
    return [replace(clip, video=None, audio=None) for clip in clips] if needless else clips


def _labels_and_splits(config: Config, clips: list[Clip]) -> tuple[tuple[str, ...], list[Clip], list[str]]:
    """The labels in index order, the clips with splits, and notes. With fewer than two labels nothing is cut."""
    distinct = {clip.label for clip in clips if clip.label is not None and clip.split != "unlabelled"}
    if len(distinct) < 2 and config.data.labels is None:
        default_split = {False: "train", True: "unlabelled"}
        clips = [replace(clip, split=clip.split or default_split[clip.label is None]) for clip in clips]
        return tuple(distinct), clips, [f"found {len(distinct)} label(s): nothing to train on, and no splits are cut"]
    names = labels.vocabulary([c.label for c in clips if c.split != "unlabelled"], config.data.labels)
    return names, *splits.assign(clips, config.data, config.seed)


def synthetic_folder(config: Config) -> Path:
    """Where the synthetic corpus of this config lies or will lie."""
    name = f"synthetic-{store.digest(synthetic.digest_parts(config.synthetic))}"
    return cluster.store_root(config) / "corpora" / name


def _synthesise(config: Config) -> list[Clip]:
    """Make the demo corpus in the store, in parallel; clips that are there already are kept."""
    folder = synthetic_folder(config)
    if not store.is_complete(folder):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        scripts = synthetic.write_scripts(config.synthetic)
        batches = [scripts[i : i + _CLIPS_PER_TASK] for i in range(0, len(scripts), _CLIPS_PER_TASK)]

        def render(batch: bytes) -> bytes:
            return pickle.dumps([synthetic.render(script, folder) for script in pickle.loads(batch)])

        sizes = [len(batch) for batch in batches]
        rendered = in_parallel(config, render, [pickle.dumps(b) for b in batches], "synthesising clips", sizes)
        clips = sorted((clip for batch in rendered for clip in pickle.loads(batch)), key=lambda c: c.clip_id)
        manifest.write(folder / MANIFEST, clips)
        store.write_meta(folder, {"kind": "corpus"})
    store.check_files(folder)
    return manifest.read(folder / MANIFEST)


def decode(config: Config, plan: ShardPlan) -> ShardPlan:
    """Decode the parts that are not there yet, in parallel; the plan with a clip for each row that they hold.

    Raises PlaceTrouble where some had to be left unmade.
    """
    tasks = decode_tasks(plan)

    def write(task: bytes) -> bytes:
        return shards.write_pickled_part(task).encode()

    sizes = [len(plan.clips_of[name]) for name in tasks]
    total = sum(map(len, plan.clips_of.values()))
    if tasks and sum(sizes) < total:
        say(f"{total - sum(sizes)} of {total} clips are decoded already")
    is_bare = all(clip.video is None and clip.audio is None for clip in plan.clips)  # tables leave nothing to decode
    title = "writing transcripts and statuses" if is_bare else "decoding clips"
    answers = in_parallel(config, write, list(tasks.values()), title, sizes, is_light=is_bare)
    trouble.check_read(answer.decode() for answer in answers)
    return with_people(plan)


def _write(folder: Path, prepared: Prepared, plan: ShardPlan) -> None:
    ledger = plan.ledger
    manifest.write(folder / MANIFEST, prepared.clips)
    parquet.write(folder / LEDGER, ledger, parquet.NAME_ROWS)
    write_bad_media(folder / BAD_MEDIA, prepared.clips, ledger)
    write_media_notes(folder / MEDIA_NOTES, prepared.clips, ledger)
    write_contact_sheet(folder / SHEET, prepared.clips, prepared.labels, plan, ledger)


def in_parallel(
    config: Config,
    work: Callable[[bytes], bytes],
    tasks: Sequence[bytes],
    title: str,
    sizes: Sequence[int],
    unit: str = "clips",
    is_light: bool = False,
) -> list[bytes]:
    """Run `work` over pickled tasks as Ray Data tasks, or here where there is little to do (`resources.stays_here`).

    Results come in any order. `sizes` are the units of each task.

    `work` must be a nested function: those travel by value, so that workers import only what they use.
    """
    if not tasks:
        return []

    def run(row: dict) -> dict:
        return {"size": row["size"], "result": work(row["task"])}

    rows = [{"task": task, "size": size} for task, size in zip(tasks, sizes, strict=True)]
    results = []
    is_here = resources.stays_here(config, len(rows), sum(sizes) if unit == "clips" else None, is_light)
    with progress(title, sum(sizes), unit) as advance:
        for row in map(run, rows) if is_here else _in_tasks(config, run, rows):
            results.append(row["result"])
            advance(row["size"])
    return results


def _in_tasks(config: Config, run: Callable[[dict], dict], rows: list[dict]) -> Iterable[dict]:
    import ray.data

    cluster.connect(config)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    most = resources.task_count(config, len(rows))
    return dataset.map(run, concurrency=most, **resources.task_resources()).iter_rows()


def _sentence(counts: dict, tables: Tables) -> str:
    splits_text = [f"{count} {split}" for split, count in counts["splits"].items()]
    media_text = [
        f"{name} {', '.join(f'{n} {kind}' for kind, n in sorted(counts[name].items(), key=lambda i: i[0] != 'ok'))}"
        if name not in tables.given
        else f"{name} from tables"
        for name in MODALITIES
    ]
    if people := counts.get("faces"):
        media_text.append(f"faces: {people['none']} clips have none, {people['several']} several")
    return f"{counts['clips']} clips ({', '.join(splits_text)}); {'; '.join(media_text)}"
