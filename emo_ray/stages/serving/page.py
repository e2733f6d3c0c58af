"""The page at /: a file, or the webcam and the microphone, in a browser; Gradio draws it, and loads nothing elsewhere.

Gradio keeps what a browser sends in a folder of temporary files for its players. Files are deleted after ten minutes,
and all of them when the server ends.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException

from emo_ray.config.job_settings import Serve
from emo_ray.config.model_settings import MODALITIES
from emo_ray.stages.serving import drawings
from emo_ray.stages.serving.answers import Answer, Upload
from emo_ray.stages.serving.app import Predict, bounded

_CLEANING_S = (60, 600)  # how often files are looked at, and how old those are that go
_STRETCH_S = 4.0
_ABOUT = (
    "Give a clip as a file, or record it. Labels are what annotators of one corpus perceived: they say nothing certain "
    "about a person. What is sent is not kept."
)


def mount(app: FastAPI, predict: Predict, settings: Serve, title: str) -> FastAPI:
    """Put the page at / of the API's app."""
    return gr.mount_gradio_app(
        app,
        _blocks(predict, settings, title),
        path="/",
        max_file_size=f"{settings.max_mb}mb",
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=drawings.STYLE,
    )


def _blocks(predict: Predict, settings: Serve, title: str) -> gr.Blocks:
    async def ask(video: str | None, audio: str | None, text: str, shown: list[str]) -> tuple[Any, str, str]:
        if not video and not audio and not text.strip():
            return None, drawings.refusal("Nothing to look at yet: give a video, a sound or words."), ""
        upload = Upload(_read(video), _read(audio), text.strip() or None, _STRETCH_S, with_frames=True)
        try:
            answer = await bounded(predict, upload, settings.timeout_s)
        except HTTPException as error:
            return None, drawings.refusal(error.detail), ""
        kept = answer.model_copy(update={"frames": [], "over_time": []}).model_dump()
        return kept, drawings.verdict(answer, shown), drawings.details(answer)

    def show(kept: dict[str, Any] | None, shown: list[str]) -> str:
        return "" if kept is None else drawings.verdict(Answer(**kept), shown)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=_CLEANING_S) as blocks:
        gr.Markdown(f"# What does this clip express?\n{_ABOUT}")
        kept = gr.State()
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="video", sources=["upload", "webcam"], include_audio=True)
                audio = gr.Audio(
                    label="sound, in the place of the video's", sources=["upload", "microphone"], type="filepath"
                )
                text = gr.Textbox(label="what is said", lines=2)
                button = gr.Button("Predict", variant="primary")
            with gr.Column():
                shown = gr.CheckboxGroup(list(MODALITIES), value=list(MODALITIES), label="modalities that count")
                verdict = gr.HTML()
                details = gr.HTML()
        button.click(ask, [video, audio, text, shown], [kept, verdict, details], api_visibility="private")
        shown.change(show, [kept, shown], verdict, api_visibility="private")
    return blocks


def _read(path: str | None) -> tuple[str, bytes] | None:
    return None if path is None else (Path(path).name, Path(path).read_bytes())
