"""The sections of the configuration that make the data: where clips come from, and how they are split."""

from typing import Any, Literal

from pydantic import field_validator

from emo_ray import addresses
from emo_ray.config.model_settings import CLIP_FIELDS
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
        f"Field -> column of the table, for tables with other headers. Fields: {', '.join((*CLIP_FIELDS, 'file'))}; "
        "file is a column of videos and sounds, told by suffix. A pattern such as Raw/{video_id}/{clip_id}.mp4, "
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
            if field not in (*CLIP_FIELDS, "file"):
                raise ValueError(f"found field {field!r}, expected one of {', '.join((*CLIP_FIELDS, 'file'))}")
            if column == ():
                raise ValueError(f"found no column for the field {field}, expected some, or null to leave it unread")
        if columns.get("file") is not None and (media := [name for name in ("video", "audio") if columns.get(name)]):
            raise ValueError(f"found columns for file and {', '.join(media)}, expected either: file is of both kinds")
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
