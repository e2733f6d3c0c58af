"""The section of the configuration that names feature tables, and says how features are standardised."""

from typing import Any, Literal

from pydantic import field_validator

from emo_ray.config.model_settings import MODALITIES
from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

BY_SPEAKER = Condition("tables.standardise is speaker", lambda config: config.tables.standardise == "speaker")


class Tables(Section, owner="caller"):
    """Features from elsewhere and to elsewhere.

    A source is a folder of CLIP_ID.npy, or a .npz, .csv, .tsv or .parquet file. A modality with sources takes its
    features from them and needs no media and no encoder; several sources are concatenated.
    """

    video: tuple[str, ...] = setting(
        (),
        "Sources of video features, in place of EmoVCLIP.",
        decides=by_content("corpus", "video_features", "folds"),
        path=True,
    )
    audio: tuple[str, ...] = setting(
        (),
        "Sources of audio features, in place of the sound encoder.",
        decides=by_content("corpus", "audio_features"),
        path=True,
    )
    text: tuple[str, ...] = setting(
        (),
        "Sources of text features, in place of the transcript encoder.",
        decides=by_content("corpus", "text_features"),
        path=True,
    )
    zeros: Literal["absent", "values"] = setting(
        "absent",
        "What a clip's features are that are zeros alone. absent: none, for tools write them where there is no face or "
        "no word; rows of zeros are left out of a mean over time, too. values: numbers like others.",
        decides=by_content("video_features", "audio_features", "text_features", "folds"),
    )
    standardise: Literal["corpus", "speaker"] = setting(
        "corpus",
        "By whose mean and deviation features are standardised, also those of encoders. speaker: each speaker's own, "
        "over all clips of a person, labels unseen; shrunk towards the corpus where clips are few or emotions unequal.",
        decides=by_value("fusion", "folds", only_if=BY_SPEAKER),
        owner="checkpoint",
    )
    export: str | None = setting(
        None, "Folder into which jobs/features.py copies its features for other programs.", decides=NOTHING
    )
    export_as: tuple[Literal["npy", "parquet"], ...] = setting(
        ("npy", "parquet"), "Formats of the exported features.", decides=NOTHING, min_length=1
    )

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
        """The sources of a modality; empty where it has an encoder."""
        return getattr(self, modality)

    @property
    def given(self) -> tuple[str, ...]:
        """The modalities that have sources."""
        return tuple(name for name in MODALITIES if self.of(name))
