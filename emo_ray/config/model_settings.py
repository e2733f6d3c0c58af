"""The sections of the configuration that make a model: the encoders and the fusion head."""

import re
from itertools import combinations
from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

MODALITIES = ("video", "audio", "text")  # the order of M everywhere
# V, A, T, VA, VT, AT, VAT: the letters of the modalities in their order.
SUBSETS = {
    "".join(name[0].upper() for name in names): names
    for size in range(1, len(MODALITIES) + 1)
    for names in combinations(MODALITIES, size)
}
METRICS = ("waf", "accuracy", "uar", "macro_f1")
CLIP_FIELDS = (
    *("clip_id", "video", "audio", "text", "label", "split", "speaker", "language"),
    *("start_s", "end_s", "dialogue", "turn", "fold", "votes"),
)

SMALL = 5000  # clips; below, the cost of a few heads, inner folds and classical baselines does not matter

# Encoders of ours; any other name is a transformers model.
OPENSMILE = "opensmile:"  # in front of the name of a feature set
OFFLINE_AUDIO = ("functionals", f"{OPENSMILE}eGeMAPSv02", f"{OPENSMILE}ComParE_2016")
OFFLINE_TEXT = ("ngrams",)

VIDEO_TRAINED = Condition("tables.video is not set", lambda config: not config.tables.video)
SPEECH_MODEL = Condition(
    "audio.encoder is a speech model",
    lambda config: config.audio.encoder not in OFFLINE_AUDIO and not config.tables.audio,
)
NGRAMS = Condition("text.encoder is ngrams", lambda config: config.text.encoder == "ngrams" and not config.tables.text)
LANGUAGE_MODEL = Condition(
    "text.encoder is a language model",
    lambda config: config.text.encoder not in OFFLINE_TEXT and not config.tables.text,
)
TEXT_ENCODED = Condition("tables.text is not set", lambda config: not config.tables.text)
WITH_READINGS = Condition(
    "annotate.url is set and annotate.task is reading",
    lambda config: config.annotate.asks_for_readings and not config.tables.text,
)


class Optimisation(Section):
    """What both training phases share: AdamW with linear warm-up and cosine decay."""

    lr: float = setting(1e-3, "Highest learning rate, reached after the warm-up.", gt=0)
    weight_decay: float = setting(0.05, "AdamW's weight decay of matrices; biases and norms are not decayed.", ge=0)
    batch_size: int = setting(32, "Clips in a step, over all workers.", ge=1)
    micro_batch_size: int | None = setting(
        None,
        "Clips that a worker has in memory at once; gradients of several are added up. null: its whole share.",
        ge=1,
    )
    warmup_fraction: float = setting(0.1, "Share of all steps in which the learning rate rises.", ge=0, lt=1)
    grad_clip_norm: float = setting(1.0, "Largest norm of the gradient; a longer one is scaled down to it.", gt=0)
    label_smoothing: float = setting(0.1, "Share of the target that is spread over all classes.", ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | dict[str, float] = setting(
        "none", "Weights of the classes in the loss. balanced: inverse to how often a class occurs; or class -> weight."
    )
    sampling: Literal["natural", "balanced"] = setting(
        "natural",
        "How often a training clip is shown in a pass. natural: once. balanced: clips of rarer classes again, until "
        "every class is shown as often as the most frequent one.",
    )
    logit_adjustment: float = setting(
        0.0,
        "In training, logits are raised by this number times the logarithm of their class's share of the training "
        "clips, so that rare classes win more clips of a test (Menon et al. 2021; 1 is theirs). 0: they are not.",
        ge=0,
    )

    @field_validator("class_weights")
    @classmethod
    def _some_weight(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and min(value.values(), default=0) <= 0:
            raise ValueError(f"found {value}, expected class -> weight, all above 0")
        return value

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.sampling == "balanced" and (self.class_weights == "balanced" or self.logit_adjustment):
            raise ValueError(
                f"found sampling=balanced with class_weights={self.class_weights} and logit_adjustment="
                f"{self.logit_adjustment:g}, expected one of the three: where every class is shown as often, the "
                "others change nothing"
            )
        return self

    def highest_lr(self, part: str | None) -> float:
        """The highest learning rate of a part of the model."""
        return self.lr


WITH_LORA = Condition(
    "emovclip.lora.rank is set and tables.video is not",
    lambda config: config.emovclip.lora.rank > 0 and VIDEO_TRAINED.holds(config),
)
WITH_RATES = Condition(
    "emovclip.lr_of is set and tables.video is not",
    lambda config: bool(config.emovclip.lr_of) and VIDEO_TRAINED.holds(config),
)
UNFROZEN = Condition(
    "emovclip.unfreeze_blocks is set and tables.video is not",
    lambda config: config.emovclip.unfreeze_blocks > 0 and VIDEO_TRAINED.holds(config),
)


class LoRA(Section, decides=by_value("emovclip", only_if=WITH_LORA)):
    """Low-rank updates of the CLIP's frozen weights, beside prompts or without any: docs/method.md."""

    rank: int = setting(0, "Rank of the updates. 0: none.", ge=0)
    alpha: float = setting(32.0, "The updates are multiplied by alpha / rank.", gt=0)
    dropout: float = setting(0.1, "Probability that an update does not see one of its inputs in a step.", ge=0, lt=1)
    targets: tuple[Literal["q", "k", "v", "out", "fc1", "fc2"], ...] = setting(
        ("q", "k", "v", "out", "fc1", "fc2"),
        "Layers of a block that are updated: queries, keys, values and the output of attention, and both of the MLP.",
        min_length=1,
    )
    blocks: int | None = setting(None, "How many blocks are updated, counted from the last. null: all.", ge=1)
    towers: tuple[Literal["vision", "text"], ...] = setting(("vision",), "Towers that are updated.", min_length=1)


PARTS = ("prompts", "lora", "blocks", "pooling", "contexts")  # of an EmoVCLIP, for learning rates


class EmoVCLIP(Optimisation, decides=by_value("emovclip", only_if=VIDEO_TRAINED)):
    """The video model: vision-language prompts on a frozen CLIP."""

    clip: str = setting(
        "ViT-B-16",
        "The frozen CLIP: an open_clip architecture, its JSON file, or a Hugging Face folder with its weights.",
        decides=by_content("frozen_clip", "shards"),
        path=True,
    )
    weights: str | None = setting(
        None,
        "The CLIP's weights: an open_clip pretrained tag, or a file (OpenAI's .pt too). null: random, by the seed.",
        decides=by_content("frozen_clip"),
        path=True,
    )
    start_from: str | None = setting(
        None,
        "Checkpoint folder, a model's or its emovclip/, whose prompts training starts from. null: new prompts.",
        decides=by_content("emovclip", "self_training"),
        path=True,
    )
    global_prompts: int = setting(8, "Number (G) of learned prompt tokens in each block, the same for all clips.", ge=0)
    local_prompts: bool = setting(True, "Whether each block gets a prompt token for each frame of the clip.")
    summary_prompt: bool = setting(True, "Whether each block gets a token that attends over the frames' CLS tokens.")
    time_embedding: bool = setting(True, "Whether a learned embedding tells each frame its place in the clip.")
    context_tokens: int = setting(8, "Number of learned vectors in front of the class name in the text tower.", ge=0)
    class_specific_context: bool = setting(True, "Whether each class has context vectors of its own.")
    train_cls_proj: bool = setting(
        True,
        "Whether the projection of the CLS tokens is trained. The public Vita-CLIP code leaves it at its random start.",
    )
    pooling: Literal["mean", "attention"] = setting(
        "attention", "How frames become a clip. attention is ours, mean is what is publicly described."
    )
    lora: LoRA = LoRA()
    unfreeze_blocks: int = setting(
        0,
        "How many of the vision tower's blocks are trained themselves, counted from the last.",
        decides=by_value("emovclip", only_if=UNFROZEN),
        ge=0,
    )
    lr: float = setting(4e-4, "Highest learning rate, reached after the warm-up.", gt=0)
    lr_of: dict[str, float] = setting(
        {},
        f"Part -> its highest learning rate, where that is another: {', '.join(PARTS)}.",
        decides=by_value("emovclip", only_if=WITH_RATES),
    )

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts that are trained, of `PARTS`."""
        is_trained = {
            "prompts": self.global_prompts or self.local_prompts or self.summary_prompt or self.time_embedding,
            "lora": self.lora.rank,
            "blocks": self.unfreeze_blocks,
            "pooling": self.pooling == "attention",
            "contexts": self.context_tokens,
        }
        return tuple(part for part in PARTS if is_trained[part])

    @property
    def trained(self) -> str:
        """What is trained, in a few words."""
        words = {
            "lora": f"low-rank updates (rank {self.lora.rank}, {' and '.join(self.lora.towers)} tower)",
            "blocks": f"the last {self.unfreeze_blocks} blocks of its vision tower",
            "pooling": "attention over frames",
        }
        return ", ".join(words.get(part, part) for part in self.trained_parts) or "the scale of its logits"

    def highest_lr(self, part: str | None) -> float:
        """A part's highest learning rate; None: the logit scale's."""
        return self.lr_of.get(part, self.lr) if part else self.lr

    @model_validator(mode="after")
    def _rates_of_what_is_trained(self) -> "EmoVCLIP":
        for part, rate in self.lr_of.items():
            if part not in self.trained_parts or rate <= 0:
                raise ValueError(
                    f"found emovclip.lr_of={{{part}: {rate:g}}}, expected rates above 0 of what is trained here: "
                    f"{', '.join(self.trained_parts)}"
                )
        return self


class Audio(Section, decides=by_value("audio_features", only_if=SPEECH_MODEL)):
    """The frozen sound encoder."""

    encoder: str = setting(
        "functionals",
        "functionals (statistics of the voice, offline), opensmile:eGeMAPSv02 or opensmile:ComParE_2016 (the extra "
        "emo_ray[opensmile], whose licence allows non-commercial use alone), or a speech model of transformers: a hub "
        "name or a folder.",
        decides=by_content("audio_features"),
        path=True,
    )
    revision: str | None = setting(
        None,
        "Commit, tag or branch of a hub name. null: its main branch.",
        decides=by_content("audio_features", only_if=SPEECH_MODEL) + by_value("sweep"),
    )
    layers: tuple[int, ...] = setting(
        (-4, -3, -2, -1), "Hidden layers that are averaged, counted from the end.", min_length=1
    )
    batch_size: int = setting(8, "Windows in a pass through the model.", decides=NOTHING, ge=1)
    window_s: float = setting(
        30.0, "Longest window in seconds: longer sound is cut into several. Whisper takes 30 s at most.", ge=1
    )
    overlap_s: float = setting(
        4.0, "Overlap of two windows in seconds; half of it is context at each side of a cut.", ge=0
    )
    dtype: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "Number format of the model. auto: bf16 on GPUs that have it, else fp32."
    )

    @field_validator("encoder")
    @classmethod
    def _feature_sets(cls, encoder: str) -> str:
        if f"{encoder}:".startswith(OPENSMILE) and encoder not in OFFLINE_AUDIO:
            raise ValueError(f"found {encoder!r}, expected {' or '.join(OFFLINE_AUDIO[1:])}")
        return encoder

    @model_validator(mode="after")
    def _windows_advance(self) -> "Audio":
        if self.overlap_s >= self.window_s:
            raise ValueError(
                f"found audio.overlap_s={self.overlap_s:g} with audio.window_s={self.window_s:g}, expected less overlap"
            )
        return self


class Text(Section, decides=by_value("text_features", only_if=LANGUAGE_MODEL)):
    """The frozen transcript encoder."""

    encoder: str = setting(
        "ngrams",
        "ngrams (hashed n-grams, offline), or a language model of transformers: a hub name or a folder.",
        decides=by_content("text_features"),
        path=True,
    )
    revision: str | None = setting(
        None,
        "Commit, tag or branch of a hub name. null: its main branch.",
        decides=by_content("text_features", only_if=LANGUAGE_MODEL) + by_value("sweep"),
    )
    layers: tuple[int, ...] = setting(
        (-4, -3, -2, -1), "Hidden layers that are averaged, counted from the end.", min_length=1
    )
    batch_size: int = setting(8, "Transcripts in a pass through the model.", decides=NOTHING, ge=1)
    max_tokens: int = setting(
        512,
        "Longest text in tokens, or as many as the model takes. The reading is cut first, then the transcript.",
        ge=2,
    )
    template: str = setting(
        "{transcript}",
        "What is encoded of a clip. Quote it in YAML.",
        decides=by_value("text_features", only_if=TEXT_ENCODED),
    )
    template_with_reading: str = setting(
        "{transcript}\n{reading}",
        "What is encoded of a clip that has a stronger model's reading. Quote it in YAML.",
        decides=by_value("text_features", only_if=WITH_READINGS),
    )
    dtype: Literal["auto", "fp32", "bf16", "int8"] = setting(
        "auto", "Number format of the model. auto: bf16 on GPUs, else fp32. int8 needs bitsandbytes and accelerate."
    )
    device_map: str | None = setting(
        None,
        "accelerate's device map, e.g. auto: the model is spread over the GPUs of its process. null: one device.",
        decides=NOTHING,
        owner="caller",
    )
    trust_remote_code: bool = setting(
        False,
        "Whether code from the model's repository may run. It needs a pinned text.revision.",
        decides=NOTHING,
        owner="caller",
    )
    ngram_features: int = setting(
        1024, "Number of hash buckets of ngrams.", decides=by_value("text_features", only_if=NGRAMS), ge=16
    )

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
