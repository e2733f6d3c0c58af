"""The names that the stages give to artefacts, told without making them.

What a name is taken from must lie in the store: decoded clips (decoded here, without Ray), checkpoints (here with
weights that follow from the checkpoint's name) and answers of a chat endpoint (here made up).
"""

import hashlib
import pickle
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import save_file

from emo_ray import cluster, durable, parquet, store
from emo_ray.config import Config, override, recipe
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import manifest, shards, synthetic
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import LEDGER, MANIFEST, Prepared
from emo_ray.data.transcripts import SCHEMA, SPOKEN, unjudged
from emo_ray.inference.encoders import encoders_of, feature_folder, frozen_encoders, of_checkpoint, recogniser
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.classical_head import ClassicalHead
from emo_ray.models.fusion import FusionHead
from emo_ray.models.identity import frozen_digest
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages import crossvalidate, evaluate, predict, pseudo_label, segment, self_train, teachers, tune
from emo_ray.stages.chat import answer_log, sounds
from emo_ray.stages.chat.answer_log import ChatAnswer, SoundAnswer, Usage
from emo_ray.stages.chat.readings import readings_of
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import plan_corpus, resolve_corpus, synthetic_folder
from emo_ray.stages.decoding.shard_plan import Decoded, decode_tasks, plan_some_parts
from emo_ray.stages.encoding.text_sources import TextSources, Transcripts
from emo_ray.stages.fitting.plan import TrainingPlan, resolve_training
from emo_ray.stages.transcripts import is_configured, question_digests, transcripts_of
from emo_ray.training import speaker_scaling

ANSWER_TOKENS = 15  # of each made-up answer
Names = dict[str, object]  # artefact -> what tells it from others of its kind; None where there is none


def names_of(config: Config, media: Path) -> Names:
    """The name of every artefact of this config but `claims`; `media` is the video of all synthetic clips."""
    corpus = opened(config, media)
    prepared, plan = corpus.prepared, resolve_training(config, corpus)
    lay_model(plan, config)
    teacher = Path(config.checkpoint or plan.path)
    rows = [row for rows in plan_corpus(config).clips_of.values() for row in rows]
    names: Names = {
        "corpus": sorted((row.identity, row.clip.label, row.clip.split, row.clip.speaker) for row in rows),
        "segments": segment.manifest_folder(config, sorted(rows, key=lambda row: row.clip.clip_id)).name,
        "frozen_clip": frozen_digest(config),
        "shards": (prepared.shards.name, prepared.parts),
        "splits": prepared.path.name,
        "transcripts": corpus.texts.transcripts and (corpus.texts.transcripts.digest, prepared.parts),
        "readings": readings_name(corpus),
        "emovclip": plan.video_path and plan.video_path.name,
        "fusion": plan.path.name,
        "report": report_name(config, corpus, teacher, media),
        "pseudo_labels": pseudo_labels_name(config, corpus, teacher, media),
        "self_training": self_training_name(config, corpus, teacher),
        "sweep": tune._key(config, resolve_training(config, Corpus(prepared.without_test(), corpus.texts))),
        "folds": folds_name(config, media),
        "predictions": predictions_name(config, teacher, media),
    }
    encoders = encoders_of(config, plan.path, corpus.texts)
    folders = {encoder.modality: feature_folder(config, prepared.shards, encoder).name for encoder in encoders}
    features = {name: (folders[name], prepared.parts) if name in folders else None for name in MODALITIES}
    return names | {f"{name}_features": features[name] for name in MODALITIES}


def readings_name(corpus: Corpus) -> tuple[str, str] | None:
    readings = corpus.texts.readings
    return readings and (readings.path.parent.name, readings.path.name)


def opened(config: Config, media: Path) -> Corpus:
    """The corpus of a job that has used up its budget, so that nothing is asked."""
    prepared = decoded(config, media)
    return Corpus(prepared, answered(config, prepared))


def decoded(config: Config, media: Path) -> Prepared:
    """The prepared corpus, whose clips are decoded in this process."""
    lay_synthetic_corpus(config, media)
    prepared, plan = resolve_corpus(config)
    for task in decode_tasks(plan).values():
        shards.write_part(*pickle.loads(task))
    if not (prepared.path / LEDGER).exists():
        ledger = pa.concat_tables([shards.ledger(plan.folder / name) for name in prepared.parts])
        parquet.write(prepared.path / LEDGER, ledger)
    return prepared


def lay_synthetic_corpus(config: Config, media: Path) -> None:
    """Put the scripted clips into the store, all with the same video and a mark that follows from the corpus' name."""
    folder = synthetic_folder(config)
    if not config.data.is_synthetic or store.is_complete(folder):
        return
    clips = []
    for script in synthetic.write_scripts(config.synthetic):
        video = folder / "clips" / f"{script.clip_id}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(media, video)
        mark(video, number_of(folder.name))
        clips.append(Clip(script.clip_id, str(video), None, script.text, script.label, script.split, script.speaker))
    unlabelled = [clip.clip_id for clip in clips if clip.split == "unlabelled"]
    assert bool(unlabelled) is bool(config.synthetic.unlabelled_clips)
    manifest.write(folder / MANIFEST, clips)
    durable.write_text(folder / store.META, '{"kind": "corpus"}')


def mark(video: Path, number: int) -> None:
    """Make an mp4 file another one, by a box at its end that players skip."""
    with video.open("ab") as stream:
        stream.write(struct.pack(">I4sQ", 16, b"free", number))


def answered(config: Config, decoded: Decoded) -> TextSources:
    """The texts of these clips, with answers for as many questions as the budgets have room for."""
    written = transcribed(config, decoded)
    return TextSources(written, read(config, written.in_clips(decoded.clips) if written else decoded.clips))


def transcribed(config: Config, decoded: Decoded) -> Transcripts | None:
    """Made-up transcripts, which tell the recogniser and the clip."""
    if not is_configured(config):
        return None
    encoder, asking = recogniser(config), config.transcribe
    folder = feature_folder(config, decoded.shards, encoder)
    for name in decoded.parts:
        table = parquet.read(decoded.shards / name)
        rows = [
            unjudged(clip_id, SPOKEN if encoder.is_remote else "ok") | {"text": f"{encoder.digest} {clip_id}"}
            for clip_id in table["clip_id"].to_pylist()
        ]
        parquet.write(folder / name, pa.Table.from_pylist(rows, SCHEMA))
    if encoder.is_remote:
        log, _ = answer_log.folder_of(cluster.store_root(config), "transcribed", sounds.settings(asking))
        digests = sorted(set(question_digests(decoded, encoder).values()))[: asking.max_requests]
        answers = answer_log.read(log, SoundAnswer)
        write = answer_log.writer(log)
        for digest in digests:
            if digest not in answers:
                write(SoundAnswer(digest, "ok", f"said {digest} {log.name}"))
    return transcripts_of(config, decoded, decoded.clips, Usage(asking.max_requests or 0))


def read(config: Config, clips: Iterable[Clip]):
    """The readings of these clips."""
    asking, clips = config.annotate, list(clips)
    if asking.url is None:
        return None
    folder, _ = answer_log.open_folder(cluster.store_root(config), asking)
    text_of = {clip.clip_id: clip.text for clip in clips if clip.text and clip.text.strip()}
    digests = sorted(set(answer_log.digests(asking, text_of).values()))
    limits = [asking.max_requests, asking.max_tokens and asking.max_tokens // ANSWER_TOKENS]
    count = min((limit for limit in limits if limit is not None), default=len(digests))
    answers = answer_log.read(folder, ChatAnswer)
    missing = [digest for digest in digests[:count] if digest not in answers]
    if missing:
        write = answer_log.writer(folder)
        for digest in missing:
            write(ChatAnswer(digest, "ok", f"a reading of {digest}", 10, ANSWER_TOKENS - 10, 1))
    return readings_of(config, clips, Usage(asking.max_requests or 0, asking.max_tokens or 0))


def lay_model(plan: TrainingPlan, config: Config) -> None:
    """Write a model into its folder, with weights that follow from the names of the head and of EmoVCLIP."""
    if (plan.path / checkpoint_files.SEEN).exists():
        return
    modalities = [name for name in MODALITIES if name != "video" or plan.video_path or config.tables.video]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(number_of(plan.path.name))
        scaling, classes = {name: torch.ones(2, 3) for name in modalities}, len(plan.prepared.labels)
        head: FusionHead | ClassicalHead
        if config.fusion.is_classical:
            head = ClassicalHead(scaling, {}, torch.zeros(classes))
        else:
            head = FusionHead(config.fusion, scaling, classes)
    plan.path.mkdir(parents=True)
    checkpoint.write(plan.path, trained_state(head), config, plan.prepared.labels, "card")
    durable.write_text(plan.path / checkpoint_files.CONFIG, recipe(config))  # the same config in fewer lines
    if config.tables.standardise == "speaker":
        speaker_scaling.write(plan.path, speaker_scaling.SpeakerScaling((), {}))
    if plan.video_path is not None:
        folder = plan.path / checkpoint_files.EMOVCLIP
        folder.mkdir()
        number = torch.tensor([number_of(plan.video_path.name)])
        save_file({"frozen_digest": number}, folder / checkpoint_files.WEIGHTS)
        for name in (checkpoint_files.CONFIG, checkpoint_files.LABELS):
            shutil.copyfile(plan.path / name, folder / name)
    durable.write_text(plan.path / checkpoint_files.SEEN, "{}")


def number_of(name: str) -> int:
    """A number below 2**20 that follows from a name."""
    return int(hashlib.blake2b(name.encode(), digest_size=4).hexdigest(), 16) % 2**20


def of_teacher(config: Config, corpus: Corpus, teacher: Path, media: Path) -> tuple[Config, Corpus]:
    """The config and the corpus of a stage that uses a model from elsewhere."""
    if config.checkpoint is None:
        return config, corpus
    config = of_checkpoint(config, teacher)
    return config, opened(config, media)


def report_name(config: Config, corpus: Corpus, path: Path, media: Path) -> str:
    config, corpus = of_teacher(config, corpus, path, media)
    judged = evaluate._judged_clips(config, corpus.prepared, path)
    labelled = {clip.clip_id for clip in corpus.prepared.clips if clip.label is not None}
    encoders = evaluate.encoders_for(config, path, corpus, labelled)
    return evaluate._folder(config, path, encoders, corpus.prepared, judged).name


def predictions_name(config: Config, path: Path, media: Path) -> object:
    config = of_checkpoint(config, path)
    plan = plan_corpus(config)
    models = predict.load_models(config, path, texts=answered(config, plan))
    return predict.planned_parts(config, models, plan).folder.name, tuple(plan.clips_of)


def pseudo_labels_name(config: Config, corpus: Corpus, path: Path, media: Path) -> str:
    first_config = of_checkpoint(config, path)
    prepared = opened(first_config, media).prepared if config.checkpoint else corpus.prepared
    pool = {clip.clip_id for clip in prepared.clips if pseudo_label.is_unlabelled(clip)}
    gathered = []
    for folder in (path, *map(Path, config.pseudo.teachers)):
        teacher_config = teachers._config_of(first_config, folder, prepared.labels)
        unseen = teachers._unseen(prepared, folder)
        plan = plan_some_parts(teacher_config, prepared, prepared.parts_with({*pool, *unseen}))
        models = predict.load_models(teacher_config, folder, texts=answered(teacher_config, plan))
        parts = predict.planned_parts(teacher_config, models, plan)
        gathered.append(teachers.Teacher(folder, parts, unseen))
    folder = pseudo_label._folder(first_config, gathered, prepared)
    return f"{folder.parent.name}/{folder.name}"


def self_training_name(config: Config, corpus: Corpus, teacher: Path) -> str:
    return self_train._key(config, corpus, self_train.Round(0, None, str(teacher), None, {}, [], {}, kept=True))


def folds_name(config: Config, media: Path) -> str:
    config = override(config, {"data.folds": config.data.folds or crossvalidate.FOLDS})
    corpus = opened(config, media)
    return crossvalidate._key(config, corpus.prepared, frozen_encoders(config, corpus.texts))
