"""Packets copied from one media file to another, and damaged on the way."""

import av

# FFmpeg's name of the format, for suffixes that are not that name.
MUXER = {
    "rf64": "wav",
    "mka": "matroska",
    "m4a": "mp4",
    "ts": "mpegts",
    "aac": "adts",
    "wma": "asf",
    "mkv": "matroska",
    "mpg": "mpeg",
    "wmv": "asf",
}


def remuxed(source, target, change):
    """Copy the packets of the first stream without decoding; `change` maps (number, packet) to a packet or None."""
    suffix = target.suffix[1:]
    with av.open(str(source)) as original, av.open(str(target), "w", format=MUXER.get(suffix, suffix)) as out:
        stream = out.add_stream_from_template(original.streams[0])
        packets = (packet for packet in original.demux(original.streams[0]) if packet.size)
        for number, packet in enumerate(packets):
            packet = change(number, packet)
            if packet is not None:
                packet.stream = stream
                out.mux(packet)
    return target


def garbage(packet, size=60):
    """A packet in the place of another that no decoder reads."""
    damaged = av.Packet(b"\x7f" * size)
    damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
    damaged.duration, damaged.is_keyframe = packet.duration, packet.is_keyframe
    return damaged
