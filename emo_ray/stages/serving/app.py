"""The HTTP API: POST /predict, GET /health, and its description at /openapi.json and /docs."""

import asyncio
import html
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from emo_ray.config.job_settings import Serve
from emo_ray.stages.serving.answers import Answer, Upload

Predict = Callable[[Upload], Awaitable[Answer]]


class Health(BaseModel):
    """The reply of GET /health: the server answers, and this is its model."""

    status: str
    model: str
    labels: list[str]


class Problem(BaseModel):
    """Why a request was refused; for media that cannot be used, in the decoder's words."""

    detail: str


class Busy(Exception):
    """More clips wait than the server takes."""


def create_app(predict: Predict, settings: Serve, model: str, labels: tuple[str, ...]) -> FastAPI:
    """The API without the page. FastAPI's own page of documentation loads scripts from elsewhere, so ours is plain."""
    app = FastAPI(
        title="emo_ray",
        description=f"Emotions of a clip by {model}: {', '.join(labels)}. What is sent is not kept.",
        docs_url=None,
        redoc_url=None,
    )
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 413, 422, 503, 504)
    }

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """A field of another kind, in words: FastAPI would send back what it was given, an upload with its insides."""
        problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return JSONResponse({"detail": problems}, 422)

    @app.post("/predict", responses=refusals)
    async def predict_clip(
        video: Annotated[UploadFile | None, File(description="A video, with its sound.")] = None,
        audio: Annotated[UploadFile | None, File(description="A sound, in the place of the video's.")] = None,
        text: Annotated[str | None, Form(description="What is said.")] = None,
        stretch_s: Annotated[
            float | None, Form(description="Also answer for stretches of so many seconds.", ge=1, le=3600)
        ] = None,
        frames: Annotated[bool, Form(description="Also send the frames that the model saw.")] = False,
    ) -> Answer:
        """Predict one clip of a video, a sound, words, or several of these."""
        parts = {name: await _content(file) for name, file in (("video", video), ("audio", audio))}
        if not any(parts.values()) and not (text and text.strip()):
            raise HTTPException(400, "found no clip, expected video, audio or text, as multipart/form-data")
        upload = Upload(parts["video"], parts["audio"], text, stretch_s, frames)
        return await bounded(predict, upload, settings.timeout_s)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers."""
        return Health(status="ok", model=model, labels=list(labels))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return _documentation(app.openapi())

    return app


async def bounded(predict: Predict, upload: Upload, timeout_s: float) -> Answer:
    """The answer within a time. Raises HTTPException where there is none, with the status and the reason."""
    try:
        answer = await asyncio.wait_for(predict(upload), timeout_s)
    except TimeoutError:
        raise HTTPException(504, f"found no answer within serve.timeout_s={timeout_s:g} s") from None
    except Busy:
        raise HTTPException(503, "found too many clips waiting, expected fewer: ask again later") from None
    if answer.label is None:
        reasons = "; ".join(f"{name} {status}" for name, status in answer.statuses.items())
        raise HTTPException(422, f"found nothing that can be used ({reasons}), expected a clip that can be decoded")
    return answer


async def _content(file: UploadFile | None) -> tuple[str, bytes] | None:
    return None if file is None else (file.filename or "", await file.read())


def _documentation(schema: dict[str, Any]) -> str:
    """The paths of the API as a page without scripts."""
    rows = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            words = html.escape(f"{operation.get('description', operation['summary'])}")
            rows.append(f"<dt><code>{method.upper()} {html.escape(path)}</code></dt><dd>{words}</dd>")
    example = "curl -F video=@clip.mp4 -F text='what is said' http://HOST:PORT/predict"
    return (
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>emo_ray API</title><style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:44rem;"
        "margin:2rem auto;padding:0 1rem}pre{overflow:auto}</style>"
        f"<h1>emo_ray API</h1><p>{html.escape(schema['info']['description'])}</p><dl>{''.join(rows)}</dl>"
        f"<pre>{html.escape(example)}</pre><p>All fields, types and errors: <a href=/openapi.json>openapi.json</a>. "
        "<a href=/>The live page</a></p></html>"
    )
