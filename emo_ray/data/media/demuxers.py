"""Which of FFmpeg's demuxers may read a clip: those whose files hold their own media.

Others read what a file names: playlists (hls, concat), addresses and ports (sdp, rtsp), devices, numbered neighbours
(image2's patterns). A clip that somebody sent could make them open other files or the network.
"""

_OWN_MEDIA = (
    # containers of pictures and sound
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi flv live_flv kux asf asf_o mpegts mpeg mpegvideo mxf gxf wtv ty dv dhav "
    "rm ivr nut nuv nsv ogg vivo swf bink smk roq mv mvi moflex usm xmv yuv4mpegpipe ivf flic hxvs "
    # pictures without a container
    "h261 h263 h264 hevc vvc av1 obu m4v mjpeg vc1 vc1test dirac cavsvideo avs2 avs3 evc apv dnxhd smjpeg "
    # sound, by itself or in a container of its own
    "wav w64 aiff au caf voc nistsphere pvf ircam sln qcp amr amrnb amrwb gsm ilbc dss aa aac aax loas latm flac mp3 "
    "ape apc tta tak wv mpc mpc8 shn osq bonk rka vqf oma dsf iff wsd iamf qoa xwma ac3 ac4 eac3 mlp truehd dts dtshd "
    "sbc lc3 aptx aptx_hd g722 g723_1 g728 g729 codec2 dfpwm spdif s337m "
    "acm adx aea aix alp ast avr sox fsb hca binka brstm bfstm genh msf mtaf musx rso sdx svag vag xvag xmd mmf "
    # pictures that stand still
    "image2 jpeg_pipe png_pipe webp_pipe bmp_pipe tiff_pipe gif gif_pipe apng"
)
# FFmpeg's for plain text: they open nothing else, and a text file is to be called one.
TEXT_FORMATS = ("tty", "srt", "ass", "webvtt", "subviewer", "microdvd", "vplayer", "lrc")
# `pattern_type`: image2 shall read the file of that name, not the numbered files that a % in it may stand for.
OPTIONS = {
    "format_whitelist": ",".join([*_OWN_MEDIA.split(), *TEXT_FORMATS]),
    "protocol_whitelist": "file",
    "pattern_type": "none",
}
