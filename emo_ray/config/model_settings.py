"""The sections of the configuration that make a model: clips, encoders, training; with default, bounds and reason."""

import re
from itertools import combinations
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MODALITIES = ("video", "audio", "text")  # the order of M everywhere
# V, A, T, VA, VT, AT, VAT: the letters of the modalities in their order.
SUBSETS = {
    "".join(name[0].upper() for name in names): names
    for size in range(1, len(MODALITIES) + 1)
    for names in combinations(MODALITIES, size)
}
METRICS = ("waf", "accuracy", "uar", "macro_f1")
CLIP_FIELDS = ("clip_id", "video", "audio", "text", "label", "split", "speaker", "language")


class Section(BaseModel):
    """A frozen part of the tree; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """Where the clips come from, and how they are split."""

    manifest: str | None = None  # CSV, JSONL, Parquet or a folder; None: the synthetic corpus
    corpus: Literal["auto", "table", "ravdess", "mer2024", "meld", "folder", "class_folders", "synthetic"] = "auto"
    root: str | None = None  # relative media paths start here; None: the manifest's own folder
    columns: dict[str, str] = {}  # field -> column, for tables with other headers
    labels: tuple[str, ...] | None = None  # None: the labels found, in alphabetical order
    validation_fraction: float = Field(0.15, gt=0, le=0.5)  # of the clips cut from, when there is no such split
    test_fraction: float = Field(0.2, gt=0, le=0.5)  # likewise; cut only when the manifest has no splits at all
    folds: int | None = Field(None, ge=2)  # of jobs/crossvalidate.py, in place of all splits; None there: 5

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        for field in columns:
            if field not in CLIP_FIELDS:
                raise ValueError(f"found field {field!r}, expected one of {', '.join(CLIP_FIELDS)}")
        return columns

    @field_validator("labels", mode="before")
    @classmethod
    def _numbers_are_names(cls, labels: Any) -> Any:
        return [str(v) if type(v) is int else v for v in labels] if isinstance(labels, list | tuple) else labels

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(set(labels)) != len(labels) or len(labels) < 2):
            raise ValueError(f"found {list(labels)}, expected two or more distinct labels")
        return labels


class Synthetic(Section):
    """The procedural corpus: mp4 files with a face, a voice and a transcript.

    Rates of flaws are shares of the clips that have what they spoil.
    """

    train_clips: int = Field(600, ge=6)
    validation_clips: int = Field(180, ge=6)
    test_clips: int = Field(300, ge=6)
    unlabelled_clips: int = Field(720, ge=0)
    true_rate: float = Field(0.8, ge=0, le=1)  # a modality shows the clip's class, decided for each on its own
    missing_rate: float = Field(0.05, ge=0, le=1 / 3)  # a modality is missing, for each of them; no clip lacks two
    dark_rate: float = Field(0.1, ge=0, le=0.5)
    occluded_rate: float = Field(0.1, ge=0, le=0.5)
    noisy_rate: float = Field(0.1, ge=0, le=1)
    empty_rate: float = Field(0.05, ge=0, le=1)  # a transcript without words
    seed: int = 0


class Media(Section):
    """How a clip is decoded into a shard row."""

    frames: int = Field(8, ge=1)  # T, spread over the clip
    image_size: int | None = Field(None, ge=16)  # pixels, a multiple of the CLIP's patch; None: what it was trained on
    jpeg_quality: int = Field(90, ge=1, le=100)
    max_audio_s: float = Field(120.0, gt=0)  # longer sound is a status: cut it into utterances
    clips_per_part: int = Field(64, ge=1)  # one shard file, the unit of work and of resumption


class Tables(Section):
    """Features from elsewhere and to elsewhere.

    A source is a folder of CLIP_ID.npy, or a .npz, .csv, .tsv or .parquet file. A modality that has any takes its
    features from them and needs no media and no encoder; several sources are put side by side.
    """

    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    export: str | None = None  # the folder where jobs/features.py leaves its features for others
    export_as: tuple[Literal["npy", "parquet"], ...] = Field(("npy", "parquet"), min_length=1)

    @field_validator(*MODALITIES, mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator(*MODALITIES)
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"found {list(value)}, expected each source once")
        return value

    def of(self, modality: str) -> tuple[str, ...]:
        """The sources of a modality; none: it has an encoder."""
        return getattr(self, modality)

    @property
    def given(self) -> tuple[str, ...]:
        """The modalities that have sources."""
        return tuple(name for name in MODALITIES if self.of(name))


class Optimisation(Section):
    """What both training phases share: AdamW with linear warm-up and cosine decay."""

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    batch_size: int = Field(32, ge=1)  # clips per step over all workers
    micro_batch_size: int | None = Field(None, ge=1)  # clips in a worker's memory at once; None: its whole share
    warmup_fraction: float = Field(0.1, ge=0, lt=1)  # of all steps
    grad_clip_norm: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"


class EmoVCLIP(Optimisation):
    """Vision-language prompts on a frozen CLIP."""

    clip: str = "ViT-B-16"  # open_clip architecture, its JSON, or a Hugging Face folder, which brings its weights
    weights: str | None = None  # open_clip pretrained tag, or a file (OpenAI's .pt too); None: random from the seed
    start_from: str | None = None  # a checkpoint folder, a model's or its emovclip/: training starts from its prompts
    global_prompts: int = Field(8, ge=0)  # G, per block
    local_prompts: bool = True  # one per frame and block
    summary_prompt: bool = True  # attention over the frames' CLS tokens
    time_embedding: bool = True
    context_tokens: int = Field(8, ge=0)  # learned vectors in front of the class name
    class_specific_context: bool = True
    train_cls_proj: bool = True
    pooling: Literal["mean", "attention"] = "attention"  # over frames; attention is ours, the mean is CLIP's
    lr: float = Field(4e-4, gt=0)


class Audio(Section):
    """The frozen sound encoder."""

    encoder: str = "functionals"  # or a transformers speech model: hub name or folder
    revision: str | None = None
    layers: tuple[int, ...] = Field((-4, -3, -2, -1), min_length=1)  # hidden layers averaged
    batch_size: int = Field(8, ge=1)  # windows per pass through the model
    window_s: float = Field(30.0, ge=1)  # longer sound is cut into windows; Whisper takes 30 s at most
    overlap_s: float = Field(4.0, ge=0)  # of two windows, so that half of it is context at each side of a cut
    dtype: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on GPUs that have it

    @model_validator(mode="after")
    def _windows_advance(self) -> "Audio":
        if self.overlap_s >= self.window_s:
            raise ValueError(
                f"found audio.overlap_s={self.overlap_s:g} with audio.window_s={self.window_s:g}, expected less overlap"
            )
        return self


class Text(Section):
    """The frozen transcript encoder."""

    encoder: str = "ngrams"  # or a transformers language model: hub name or folder
    revision: str | None = None
    layers: tuple[int, ...] = Field((-4, -3, -2, -1), min_length=1)
    batch_size: int = Field(8, ge=1)
    max_tokens: int = Field(512, ge=2)  # or as many as the model takes; the reading is cut first, then the transcript
    template: str = "{transcript}"  # what is encoded of a clip; in YAML it wants quotes
    template_with_reading: str = "{transcript}\n{reading}"  # in its place where a stronger model's reading is there
    dtype: Literal["auto", "fp32", "bf16", "int8"] = "auto"  # auto: bf16 on GPUs; int8 wants bitsandbytes, accelerate
    device_map: str | None = None  # e.g. auto: a model spread over the GPUs of its process; wants accelerate
    trust_remote_code: bool = False  # run code from the model's repository: only with a pinned revision
    ngram_features: int = Field(1024, ge=16)  # hash buckets of the offline stand-in

    @field_validator("template", "template_with_reading", mode="before")
    @classmethod
    def _no_mapping(cls, template: Any, info: ValidationInfo) -> Any:
        if isinstance(template, dict):  # how YAML reads a bare {transcript}
            quoted = f"'text.{info.field_name}=\"{{transcript}} ...\"'"
            raise ValueError(f"found {template!r}, expected text in quotes that YAML sees: {quoted}")
        return template

    @field_validator("template", "template_with_reading")
    @classmethod
    def _places(cls, template: str, info: ValidationInfo) -> str:
        expected = ["transcript"] if info.field_name == "template" else ["reading", "transcript"]
        if sorted(re.findall(r"{(\w+)}", template)) != expected:
            names = " and ".join(f"{{{name}}}" for name in reversed(expected))
            raise ValueError(f"found {template!r}, expected {names}, each once and nothing else in such brackets")
        return template

    @model_validator(mode="after")
    def _pinned_code(self) -> "Text":
        if self.trust_remote_code and self.revision is None:
            raise ValueError(
                "found text.trust_remote_code=true without text.revision, expected a pinned commit: "
                "code from a repository runs with your rights, so read it once and pin it"
            )
        return self


class Fusion(Optimisation):
    """The head over the three feature vectors."""

    hidden: int = Field(128, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    modality_dropout: float | dict[str, float] = 0.5  # one rate for incomplete patterns, or one per modality
    # The head is tiny and a report to Ray is not: an epoch of the head is this many passes over its features.
    passes_per_epoch: int = Field(4, ge=1)
    start_from: str | None = None  # a checkpoint folder of the same classes: training starts from its head

    @field_validator("modality_dropout")
    @classmethod
    def _rates(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        rates = value if isinstance(value, dict) else dict.fromkeys(MODALITIES, value)
        for name, rate in rates.items():
            if name not in MODALITIES or not 0 <= rate <= 1:
                raise ValueError(f"found {name}: {rate}, expected rates in [0, 1] for {', '.join(MODALITIES)}")
        return value


class Train(Section):
    """How Ray Train runs both phases."""

    num_workers: int = Field(1, ge=0)  # 0: train and encode in the job's own process, on its GPU or one core
    epochs: int = Field(10, ge=1)  # of each phase
    use_gpu: Literal["auto", "yes", "no"] = "auto"  # auto: when the cluster has enough of them
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of EmoVCLIP's training; auto: bf16 on GPUs that have it
    max_failures: int = Field(3, ge=0)  # worker-group restarts before the run is given up
    shuffle_buffer: int = Field(512, ge=1)  # clips
    pseudo_labels: str | None = None  # a round's folder of jobs/pseudo_label.py: its accepted clips are trained on too
    pseudo_targets: Literal["soft", "hard"] = "soft"  # the calibrated probabilities, or the class they name
    pseudo_weight: float = Field(0.5, gt=0, le=1)  # of an accepted clip, where a labelled one has 1
    # A pseudo-label is what all modalities say together, and often not what a clip's face shows; and with EmoVCLIP as
    # it was, no clip is encoded again: a round then costs seconds.
    pseudo_phases: Literal["fusion", "both"] = "fusion"

    @property
    def shares(self) -> int:
        """How many processes share the clips of a step. Training in the job's own gives what one worker gives."""
        return max(1, self.num_workers)

    @field_validator("use_gpu", mode="before")
    @classmethod
    def _yaml_words(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # a bare yes is true in YAML
