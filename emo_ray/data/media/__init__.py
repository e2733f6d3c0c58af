"""Decoding: a media file to T frames and 16 kHz mono sound. The only modules that open a container for reading.

Bad content never raises out of `read_video` and `read_audio`: it comes back as a status. PyAV carries FFmpeg.

Reading order: codecs, lengths, demuxers, container, span, packet_index, picture, sample, arrays, video, face_crops,
audio, extent.
"""

from emo_ray.data.media.audio import RATE_HZ, read_audio
from emo_ray.data.media.container import LIMITS, Limits
from emo_ray.data.media.extent import read_sound_extent
from emo_ray.data.media.face_crops import FaceClip, FaceRequest, read_faces
from emo_ray.data.media.packet_index import spread
from emo_ray.data.media.span import Span
from emo_ray.data.media.video import read_video

VERSION = 3  # part of every shard's digest: raise it when decoding gives other values

__all__ = [
    "LIMITS",
    "RATE_HZ",
    "VERSION",
    "FaceClip",
    "FaceRequest",
    "Limits",
    "Span",
    "read_audio",
    "read_faces",
    "read_sound_extent",
    "read_video",
    "spread",
]
