"""When the sound of a recording begins and ends, which its packets tell: nothing is decoded."""

import numpy as np

from emo_ray.data.media.audio import length_notes, opened_sound
from emo_ray.data.media.container import LIMITS, Corrupt, Limits, Missing, Tally, with_status
from emo_ray.data.media.span import Span, window_of

_LONGEST_S = 48 * 3600.0  # more is a damaged time stamp, and would be sought for a long time


def read_sound_extent(source: str | None, limits: Limits = LIMITS) -> tuple[np.ndarray | None, str]:
    """The start and end of the sound in seconds from the beginning of the file, and a status like that of `read_audio`.

    A file that holds much less than its header states is corrupt, as it is where all of it is decoded.
    """
    return with_status(lambda path: _extent(path, limits), source)


def _extent(source: str, limits: Limits) -> tuple[np.ndarray, list[str]]:
    with opened_sound(source, limits) as (media, stream, notes):
        container = media.container
        tally = Tally()
        streams = list(container.streams) if media.states_whole_duration else [stream]
        first, end = None, 0
        for packet in tally.read(container, streams):
            if packet.stream_index == stream.index:
                if packet.pts is None:
                    raise Corrupt("the file does not say when its sound is heard")
                first = packet.pts if first is None else min(first, packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
        if first is None:
            raise Missing("the sound track is empty")
        clock = window_of(Span(0, 1), container, stream)
        start_s, end_s = clock.seconds(first), clock.seconds(end)
        if end_s > _LONGEST_S:
            raise Corrupt(
                f"sound at {end_s / 3600:.0f} hours from the beginning: recordings of up to 48 hours are read"
            )
        notes += length_notes(media, stream, tally, end_s - start_s)
        return np.array([max(0.0, start_s), end_s]), [*notes, *tally.end_notes(), *media.end_notes]
