"""Every job by its name: where its function is, and what its help says.

`jobs/NAME.py`, the command `emo-ray NAME`, its shell completion and the lists of the documentation all read this table.
"""

from dataclasses import dataclass

COMMON = ("data", "synthetic", "media", "tables", "store", "tracking", "cluster")  # sections that every job reads
CONSOLE = "emo-ray"  # the command that pip installs


@dataclass(frozen=True)
class Command:
    """A job, done by the function of its name in a module of emo_ray."""

    module: str
    about: str
    example: str  # the words behind the job's name
    result: str  # where the result lies
    sections: tuple[str, ...] = ()  # of the config, beside COMMON
    choice: str | None = None  # a key whose value may stand among the words without the key
    is_remote: bool = False  # it hands its config to another machine: the store and all paths are that one's
    only_reads: bool = False  # it looks at a store or a machine, and makes nothing that others build on
    refused: tuple[str, ...] = ()  # keys that it ends with an error for where they are set
    # Jobs that people run next, with words; {path}: the result, {model}: its checkpoint, {media}: the corpus' folder.
    then: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "segment": Command(
        "stages.segment",
        about="Cut recordings of any length into utterances: a manifest, which every other job takes as data.manifest.",
        example="mini data.manifest=recordings/",
        result="STORE/segments/KEY/manifest.parquet: a row for each utterance, with its times in its recording",
        sections=("segment",),
        then=("predict checkpoint=MODEL_FOLDER data.manifest={path} data.root={media}",),
    ),
    "prepare": Command(
        "stages.prepare",
        about="Prepare a corpus: check its manifest, cut splits, decode every clip once into shards, list bad media.",
        example="mini data.manifest=clips.csv data.columns.video=file",
        result="STORE/prepared/KEY with manifest.parquet, ledger.parquet, bad_media.csv and a contact sheet",
        then=("train",),
    ),
    "check": Command(
        "stages.check",
        about="Know your data: leakage between splits by content and by speaker, balance, silence, clipping, dark and "
        "still pictures, doubled and missing transcripts, faces, unreadable media.",
        example="mini data.manifest=clips.csv",
        result="STORE/checks/KEY with report.html, check.json, clips.csv and pairs.csv; exit status 2 where anything "
        "leaks, else 0",
    ),
    "transcribe": Command(
        "stages.transcribe",
        about="Write down what is said in the clips that have no transcript.",
        example="mini data.manifest=clips.csv transcribe.model=openai/whisper-small",
        result="STORE/transcripts/transcripts-KEY.parquet: text, language and status, a row for each clip that "
        "had no text",
        sections=("transcribe",),
        then=("train",),
    ),
    "annotate": Command(
        "stages.annotate",
        about="Ask a chat endpoint for a reading of the speaker's emotional state in every transcript, each one once; "
        "with annotate.task=label for the class of every unlabelled clip.",
        example="mini annotate.url=http://127.0.0.1:8000/v1 annotate.model=MODEL",
        result="STORE/readings/KEY/readings-KEY.parquet; the text encoder uses it in jobs with the same annotate.url. "
        "Labels: STORE/chat_labels/KEY/labels-KEY.parquet, for pseudo.chat_labels",
        sections=("annotate",),
        then=("train",),
    ),
    "features": Command(
        "stages.features",
        about="Encode a corpus: features of sound and text, and of video where `checkpoint` names a trained model.",
        example="mini data.manifest=clips.csv tables.export=features/",
        result="STORE/features, a folder for each modality; with tables.export a copy for others, .npy per clip "
        "and Parquet",
        sections=("audio", "text", "annotate", "train"),
        then=("train",),
    ),
    "train": Command(
        "stages.train",
        about="Train a model: EmoVCLIP's prompts, then the fusion head. Stages that are missing before it run first.",
        example="mini data.manifest=clips.csv train.epochs=20",
        result="STORE/checkpoints/model-KEY with the trained weights, config.yaml, labels.json and a model card",
        sections=("emovclip", "audio", "text", "fusion", "train", "annotate"),
        refused=("checkpoint", "data.folds"),
        then=("evaluate", "predict checkpoint={model} data.manifest=NEW_CLIPS"),
    ),
    "evaluate": Command(
        "stages.evaluate",
        about="Report on `checkpoint`, or on the model that the config trains (made first), over all subsets of "
        "the modalities.",
        example="mini evaluate.split=validation",
        result="STORE/reports/KEY with report.json, report.html, pictures and predictions.parquet",
        sections=("evaluate", "emovclip", "audio", "text", "fusion", "train", "annotate"),
        refused=("data.folds",),
        then=(
            "predict checkpoint={model} data.manifest=NEW_CLIPS",
            "serve checkpoint={model}",
            "self_train checkpoint={model}",
        ),
    ),
    "predict": Command(
        "stages.predict",
        about="Predict every clip of a table, a folder of media, a media file, or a folder that `prepare` made.",
        example="mini checkpoint=MODEL_FOLDER data.manifest=videos/",
        result="STORE/predictions/KEY with predictions.html, predictions.csv and part-*.parquet: a card and a row for "
        "each clip; timelines/ of recordings",
        sections=("train", "annotate", "segment"),
    ),
    "pseudo_label": Command(
        "stages.pseudo_label",
        about="Pseudo-label the unlabelled clips of a corpus with a teacher: calibrate it, select, write a row "
        "for every clip.",
        example="mini checkpoint=MODEL_FOLDER pseudo.quantile=0.3",
        result="STORE/pseudo_labels/KEY/round-N: the rows, why clips were refused, a report; see train.pseudo_labels",
        sections=("pseudo", "train", "annotate"),
        then=("train train.pseudo_labels={path}",),
    ),
    "self_train": Command(
        "stages.self_train",
        about="Self-training: a teacher labels unlabelled clips, a student learns from both, round by round "
        "while validation gains.\n\n"
        "`checkpoint=FOLDER` teaches first, else a model is trained. rounds.most=N of a finished run gives "
        "the state after round N back, at no cost.",
        example="mini rounds.most=3 rounds.start=warm",
        result="STORE/self_train/KEY with rounds.json, a table and a picture of all rounds, and the best "
        "checkpoint's path",
        sections=("rounds", "pseudo", "emovclip", "audio", "text", "fusion", "train", "annotate"),
        refused=("data.folds",),
        then=("evaluate checkpoint={model}", "predict checkpoint={model} data.manifest=NEW_CLIPS"),
    ),
    "tune": Command(
        "stages.tune",
        about="Search for the best recipe: trials with other values of the keys in tune.space, judged on "
        "validation clips alone.",
        example="mini tune.trials=50 'tune.space.fusion.lr={loguniform: [1e-4, 1e-2]}'",
        result="STORE/sweeps/KEY with best.yaml (a recipe for any job), sweep.json, tables and pictures of all trials",
        sections=("tune", "emovclip", "audio", "text", "fusion", "train", "annotate"),
        refused=("checkpoint", "data.folds"),
        then=("evaluate {path}/best.yaml",),
    ),
    "crossvalidate": Command(
        "stages.crossvalidate",
        about="Train and test the fusion head in folds that no speaker crosses, for small corpora.",
        example="mini data.manifest=clips.csv data.folds=6 tables.audio=[hubert/,whisper.npz]",
        result="STORE/reports/folds-KEY with the scores of each fold and of all clips together, and "
        "predictions.parquet",
        sections=("evaluate", "audio", "text", "fusion", "train", "annotate"),
        refused=("checkpoint",),
        then=("train",),
    ),
    "crosscorpus": Command(
        "stages.crosscorpus",
        about="Train a model on each of several corpora, and test each on all of them, over the classes that "
        "both have.",
        example="mini 'crosscorpus.corpora={a: {data.manifest: a.csv}, b: {data.manifest: b.csv}}'",
        result="STORE/reports/corpora-KEY with tables of corpora by corpora: report.html, report.md, report.json",
        sections=("crosscorpus", "emovclip", "audio", "text", "fusion", "train", "annotate"),
        refused=("checkpoint",),
    ),
    "claims": Command(
        "experiments.claims.claims",
        about="Measure the paper's claims in miniature, over several synthetic worlds and seeds.",
        example="mini claims.worlds=3 claims.seeds=3",
        result="STORE/claims/KEY with the tables as JSON, as a page with pictures, and as Markdown",
        sections=("claims", "emovclip", "audio", "text", "fusion", "train", "pseudo"),
        choice="claims.part",
    ),
    "doctor": Command(
        "stages.doctor",
        about="Look at this machine and at what a recipe needs: packages, GPU, memory by model, weights, disk, ports.",
        example="mer2024",
        result="STORE/ itself, and a table with what to do; exit status 0 where a job can begin, else 2",
        only_reads=True,
    ),
    "export": Command(
        "stages.export",
        about="Export a model to a folder that works by itself: for emo_ray.load, MLflow, ONNX and the Hugging Face "
        "hub, with a model card.",
        example="mini checkpoint=MODEL_FOLDER tracking.register=emotions",
        result="STORE/exports/MODEL-KEY with weights, encoders, README.md, MLmodel and onnx/",
        sections=("export",),
        then=("serve checkpoint={path}",),
    ),
    "serve": Command(
        "stages.serve",
        about="Serve a model: a page for files, webcam and microphone, and a JSON API, until Ctrl-C.",
        example="mini checkpoint=MODEL_FOLDER serve.port=8000",
        result="the page at http://127.0.0.1:8000/, the API at /predict and /docs",
        sections=("serve", "train", "transcribe"),
    ),
    "submit": Command(
        "stages.submit",
        about="Send a job to a Ray cluster and follow its log. The same words again join the job that runs already.\n\n"
        "The first word is the job. Paths are those of the cluster. Ctrl-C ends the watching, not the job.",
        example="train mer2024 data.manifest=/shared/mer2024 store.root=/shared/emo_ray train.num_workers=4",
        result="what the job makes, on the cluster; here the submission's id, and the job's exit status",
        sections=("submit",),
        choice="submit.job",
        is_remote=True,
    ),
    "verify": Command(
        "stages.verify",
        about="Read every file of a store, and say what is whole, what is damaged, and which command makes it again.",
        example="mini store.root=my_store verify.mend=true",
        result="STORE/ itself, and a table; exit status 0 where all is whole, else 2",
        sections=("verify",),
        only_reads=True,
    ),
    "status": Command(
        "stages.status",
        about="Say what runs on a store, what is done, what is broken, what it takes to go on, and the time and room "
        "that were spent, beside what jobs/bench.py planned.",
        example="mini store.root=my_store",
        result="STORE/ itself, and tables; exit status 2 where something is broken or was stopped, else 0",
        only_reads=True,
    ),
    "report": Command(
        "stages.report",
        about="Write the front page of a store: its corpora, models, reports, sweeps and predictions, newest first. "
        "Every job does so at its end.",
        example="mini store.root=my_store",
        result="STORE/index.html",
        only_reads=True,
    ),
    "chaos": Command(
        "experiments.chaos.chaos",
        about="Make every fault that a job should survive or refuse, on real jobs with tiny stores, and say how "
        "each of them ended.",
        example="mini 'chaos.only=[SIGKILL*]'",
        result="STORE/chaos/DATE-TIME with the table of faults, outcomes and seconds as JSON and as Markdown",
        sections=("chaos",),
    ),
    "bench": Command(
        "experiments.bench.bench",
        about="Measure what this system's speed rests on, as ratios in one run; and estimate hours and bytes for "
        "a larger corpus.\n\n"
        "The word `all`, or the name of a part, chooses what is measured.",
        example="all mer2024 bench.plan_clips=115595",
        result="STORE/bench/DATE-TIME/bench.json, whose tables are printed",
        sections=("bench",),
        choice="bench.part",
    ),
}
