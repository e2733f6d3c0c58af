"""The sections of the configuration that belong to one job, or to all: what is selected, measured, and where."""

import re
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from emo_ray import addresses
from emo_ray.config.model_settings import MODALITIES, SMALL
from emo_ray.config.setting import NOTHING, Section, by_content, by_value, setting

Rate = Annotated[float, Field(ge=0, le=1)]
_PORT_OR_NONE = re.compile(r"[^:/@]*(:\d*)?(/|$)")  # how an address without user and password begins
_TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")  # of MLflow itself


class Pseudo(Section, decides=by_value("pseudo_labels"), owner="caller"):
    """Which pseudo-labels are kept, and whose: `checkpoint` is the teacher."""

    policy: Literal["quantile", "fixed", "per_class", "quota", "adaptive"] = setting(
        "quantile",
        "How the threshold of a class is found. quantile: of the confidences of its clips. fixed: one for all. "
        "per_class: those given. quota: as many clips of each class. adaptive: by how often a class is predicted.",
    )
    threshold: float = setting(
        0.9,
        "Least confidence in fixed and adaptive; in per_class, of the classes that pseudo.thresholds lacks.",
        ge=0,
        le=1,
    )
    thresholds: dict[str, Rate] = setting({}, "Label -> its least confidence, in per_class.")
    quota: int = setting(100, "Clips of each class, in quota.", ge=1)
    quantile: float = setting(
        0.5, "Share of each class's clips that stays below the threshold, in quantile.", ge=0, lt=1
    )
    floor: float = setting(0.5, "Lowest threshold in quantile and adaptive.", ge=0, le=1)
    max_ratio: float = setting(3.0, "Most accepted clips for each labelled training clip.", gt=0)
    teachers: tuple[str, ...] = setting(
        (),
        "Further checkpoint folders; the calibrated probabilities of all teachers are averaged.",
        decides=by_content("pseudo_labels", "self_training"),
        path=True,
    )
    chat_labels: str | None = setting(
        None,
        "Table of labels that jobs/annotate.py annotate.task=label wrote: one more teacher, with a label and no "
        "probabilities.",
        decides=by_content("pseudo_labels", "self_training"),
        path=True,
    )
    agree_with: Literal["none", "chat"] = setting(
        "none",
        "Whose label a kept clip's must be. chat: that in pseudo.chat_labels, so that a clip without one is not kept. "
        "none: see pseudo.agreement.",
    )
    agreement: float = setting(1.0, "Share of the teachers that must predict the same class.", ge=0, le=1)
    agreeing_modalities: int = setting(
        0,
        "Number of modalities that must predict the class as well, each shown alone.",
        ge=0,
        le=len(MODALITIES),
    )
    max_bad_fraction: float = setting(
        0.2,
        "Largest share of unlabelled clips with broken media; beyond it the job fails when all else is written.",
        decides=NOTHING,
        ge=0,
        le=1,
    )
    round: int = setting(
        0, "Number of the round, in the folder's name and in its rows.", decides=by_content("pseudo_labels"), ge=0
    )

    @model_validator(mode="after")
    def _used(self) -> "Pseudo":
        if self.thresholds and self.policy != "per_class":
            raise ValueError(f"found pseudo.thresholds with pseudo.policy={self.policy}, expected policy=per_class")
        return self


class Rounds(Section, decides=by_value("self_training")):
    """Self-training: a teacher labels, a student learns from it, and the better one teaches next."""

    most: int = setting(
        5,
        "Most rounds. A smaller number gives the state after that round, from what is already made.",
        decides=by_content("self_training"),
        ge=1,
    )
    patience: int = setting(2, "Rounds in a row without a rise of rounds.min_gain that end the job.", ge=1)
    min_gain: float = setting(
        0.002, "Least rise of validation WAF that counts; a smaller one is kept and counts as no rise.", ge=0, lt=1
    )
    start: Literal["scratch", "warm"] = setting(
        "scratch", "A student's first weights. scratch: new ones. warm: those of its teacher."
    )


class Evaluate(Section, owner="caller"):
    """What a report is made on."""

    split: Literal["auto", "train", "validation", "test"] = setting(
        "auto",
        "The split to measure on. auto: test where it has labels, else validation.",
        decides=by_content("report"),
    )
    floors: bool | None = setting(
        None,
        "Whether scikit-learn's classifiers are trained on the same features, to be compared with. "
        f"null: where fewer than {SMALL:,} clips are trained on.",
        decides=by_content("report") + by_value("folds"),
    )

    views: int = setting(
        1,
        "Views of each clip whose features of video are averaged: the middles of what is stored, whole, and then "
        "frames drawn, and cropped as often, as in training.",
        decides=by_content("report"),
        ge=1,
    )

    compare: tuple[str, ...] = setting(
        (),
        "Two folders, of reports or of checkpoints, whose models are compared on the same clips; nothing else is done.",
        decides=by_content("report"),
        path=True,
    )

    noise: bool = setting(
        False,
        "Whether the model is also tried on degraded clips: noise in sound, blur and fewer frames, dropped words.",
        decides=by_content("report"),
    )

    @field_validator("compare")
    @classmethod
    def _of_two(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        if len(folders) not in (0, 2):
            raise ValueError(f"found {len(folders)} folders, expected two: evaluate.compare=[FIRST, SECOND]")
        return folders

    def has_floors(self, clips: int) -> bool:
        """Whether floors are measured where so many clips are trained on."""
        return clips < SMALL if self.floors is None else self.floors


class CrossCorpus(Section, owner="caller"):
    """The corpora that jobs/crosscorpus.py trains on and tests on."""

    corpora: dict[str, dict[str, Any]] = setting(
        {},
        "Name of a corpus -> what sets it apart: keys of data and tables with their values, such as "
        "{data.manifest: a.csv, data.label_map: {exc: happy}}. All else is the config's.",
        decides=by_content("report"),
    )

    @field_validator("corpora")
    @classmethod
    def _about_data(cls, corpora: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in corpora.items():
            for key in changes:
                if not key.startswith(("data.", "tables.")):
                    raise ValueError(f"found {key!r} for {name!r}, expected keys of data and tables alone")
        return corpora


class Claims(Section, decides=by_value("claims")):
    """Which claims are measured, and how often."""

    part: Literal["paper", "gap", "options"] = setting(
        "paper",
        "What is measured; also the first word of the command line. paper: the paper's claims. gap: what to train "
        "where CLIP's pictures and the clips differ. options: what train.joint_epochs and evaluate.views give.",
    )
    worlds: int = setting(3, "Synthetic worlds, each with clips of its own.", ge=1)
    seeds: int = setting(3, "Seeds of training in each world.", ge=1)
    self_training_seeds: int = setting(
        5, "Seeds of self-training in each world; they also choose which labels the teacher knows.", ge=1
    )
    dropout_rates: tuple[Rate, ...] = setting(
        (0.0, 0.15, 0.3, 0.5, 0.7), "Values of fusion.modality_dropout that are compared."
    )


class Verify(Section, decides=NOTHING):
    """What jobs/verify.py does with what it finds in the store."""

    mend: bool = setting(
        False, "Set damaged files aside, so that the next job makes them again, and remove what killed jobs left over."
    )


class Bench(Section, decides=NOTHING):
    """What jobs/bench.py measures, and on how much."""

    part: Literal[
        "all", "step", "decode", "stream", "train", "features", "predict", "sweep", "growth", "start", "suite"
    ] = setting("all", "What is measured; also the first word of the command line.")
    pairs: int = setting(5, "Rounds in which every way of a comparison runs once.", ge=1)
    clip: str = setting(
        "ViT-B-16", "CLIP of the step and the stream: an open_clip architecture, with random weights.", path=True
    )
    frames: int = setting(8, "Frames of a clip.", ge=1)
    global_prompts: int = setting(8, "Global prompts in each block.", ge=0)
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = setting(
        (2,), "Clips in a step, one measurement each.", min_length=1
    )
    clips: int = setting(2000, "Clips of the small corpus that is read, encoded and predicted.", ge=8)
    train_s: float = setting(60.0, "Duration in seconds of the training runs that are compared.", gt=0)
    trials: int = setting(50, "Trials of the measured sweep.", ge=1)
    sizes: tuple[Annotated[int, Field(ge=200)], ...] = setting(
        (1000, 10_000), "Clips of the corpora on which growth is measured, in ascending order.", min_length=1
    )
    plan_clips: int | None = setting(None, "Clips of a corpus to plan for. null: nothing is planned.", ge=1)
    plan_labelled: int = setting(
        5030, "Labelled clips of the planned corpus, which are trained on; 5030 are MER2024's.", ge=1
    )
    plan_cpus: int = setting(16, "CPUs to plan for.", ge=1)
    plan_gpus: int = setting(0, "GPUs to plan for.", ge=0)


class Chaos(Section, decides=NOTHING):
    """Which faults jobs/chaos.py makes."""

    only: tuple[str, ...] = setting(
        (), "Names or kinds of faults, or patterns of them such as SIGKILL*. Empty: all of them."
    )
    seed: int = setting(0, "Seed of random moments and places.", ge=0)
    page: str | None = setting(
        None, "Page whose table is replaced by that of this run, if all faults were made. null: none.", path=True
    )


class Export(Section, decides=NOTHING, owner="caller"):
    """What jobs/export.py writes."""

    licence: str = setting(
        "other", "Licence of the model card, as the hub calls it. The corpus and the encoders limit what you may say."
    )
    onnx: bool = setting(True, "Whether the head and EmoVCLIP's video side are written as ONNX too.")


class Serve(Section, decides=NOTHING, owner="caller"):
    """How jobs/serve.py answers; EMO_RAY_SERVE_TOKEN of the environment is what clients must send."""

    host: str = setting("127.0.0.1", "Address to listen on. One that other machines reach demands a token.")
    port: int = setting(8000, "Port to listen on.", ge=1, le=65535)
    max_mb: int = setting(100, "Largest request in MiB.", ge=1)
    timeout_s: float = setting(60.0, "Longest wait for an answer in seconds.", gt=0)
    replicas: int = setting(1, "Processes that predict, each with a model of its own.", ge=1)
    batch_size: int = setting(8, "Most clips that a process predicts together.", ge=1)
    replace: bool = setting(
        False, "Whether to end a server of emo_ray that the joined cluster still runs. A killed job leaves one behind."
    )


class Store(Section, decides=NOTHING, owner="caller"):
    """Where artefacts go."""

    root: str = setting(
        "artifacts", "Folder of all artefacts, which every node of the cluster sees, or its address: s3://, gs://."
    )
    cache: str = setting(
        "~/.cache/emo_ray",
        "Folder in which every machine keeps copies of what it reads from buckets; it may be deleted between jobs.",
    )

    @field_validator("root")
    @classmethod
    def _folder(cls, root: str) -> str:
        if not root.strip() or "\0" in root:
            raise ValueError(f"found {root!r}, expected a folder, or an address such as s3://BUCKET/FOLDER")
        addresses.check_address(root)
        return root


def without_credentials(address: str) -> str:
    """An address as it may be shown: without user and password, and without fields, which may hold one too."""
    login = login_of(address)
    return (address.replace(f"{login}@", "", 1) if login else address).partition("?")[0]


def login_of(address: str) -> str:
    """What stands before the @ of an address, such as user:password; empty where nothing does."""
    rest = address.partition("://")[2] or address
    host = rest if not _PORT_OR_NONE.match(rest) else rest.partition("/")[0]  # a password may hold a slash
    return host.rpartition("@")[0]


def unusable_uri(address: str, reason: str) -> str:
    """The message on a tracking URI at which no run can be opened."""
    return (
        f"found {without_credentials(address)} ({reason}), expected an MLflow server that answers at "
        "http(s)://host:port, or sqlite:////path.db: start it, or leave tracking.uri out to keep runs in the store"
    )


def _tracking_plugins(scheme: str) -> Iterable[EntryPoint]:
    """What installed packages add to MLflow for this scheme."""
    return entry_points(group="mlflow.tracking_store", name=scheme)


# A class of Python has a method of this name, of which no section makes use.
warnings.filterwarnings("ignore", message='Field name "register" in "Tracking" shadows')


class Tracking(Section, decides=NOTHING, owner="caller", in_recipe=False):
    """Where MLflow records runs."""

    uri: str | None = setting(
        None, "MLflow's tracking URI; on a cluster an http(s) server. null: an SQLite file in store.root."
    )
    experiment: str = setting("emo_ray", "Name of the MLflow experiment.")
    enabled: bool = setting(True, "Whether runs are recorded at all.")
    system_metrics: bool = setting(
        False, "Whether runs also record the load of the machine of the job's own process: CPU, memory, disk, network."
    )
    register: str | None = setting(
        None,
        "Name in MLflow's registry under which jobs/train.py and jobs/export.py register the model, as its champion. "
        "null: it is not registered.",
        min_length=1,
        pattern=r"[^/:'\"]+",
    )

    @field_validator("uri")
    @classmethod
    def _server_or_database(cls, uri: str | None) -> str | None:
        """Refused here, and not by MLflow when everything is trained."""
        if uri is None:
            return None
        scheme, separator, _ = uri.partition("://")
        kind = scheme.partition("+")[0].lower()
        is_kept_by_mlflow = kind in _TRACKING_SCHEMES and (separator or kind == "databricks")
        if is_kept_by_mlflow or any(_tracking_plugins(scheme)):
            return uri
        is_folder = kind == "file" or not separator
        reason = "MLflow no longer keeps runs in plain folders" if is_folder else f"no store of MLflow is at {kind}://"
        raise ValueError(unusable_uri(uri, reason))
