"""The API without Ray Serve: answers, refusals, and who may ask."""

import asyncio
import base64
import html

import httpx
import numpy as np
import pytest

from emo_ray.config.job_settings import Serve
from emo_ray.stages.serving import drawings
from emo_ray.stages.serving.answers import Answer, Stretch, Upload
from emo_ray.stages.serving.app import Busy, create_app
from emo_ray.stages.serving.guard import Guard, is_loopback

LABELS = ("calm", "<b>glad</b>")
TOKEN = "a-long-and-random-token"


def answered(**changes):
    shares = {"calm": 0.75, "<b>glad</b>": 0.25}
    values = {
        "label": "calm",
        "confidence": 0.75,
        "probabilities": shares,
        "parts": {"text": shares},
        "without": {},
        "statuses": {"video": "missing", "audio": "missing", "text": "ok"},
        "text": "<script>alert(1)</script>",
        "attention": None,
        "unfamiliar": {},
    }
    return Answer(**(values | changes))


def asked(request, predict=None, token=None, host="127.0.0.1", **settings):
    """The response to a request, which is a function of a client, and the uploads that were to be predicted."""
    uploads = []

    async def record(upload):
        uploads.append(upload)
        return answered() if predict is None else await predict(upload)

    serve = Serve(**settings)
    guarded = Guard(create_app(record, serve, "model-1", LABELS), token, serve.max_mb * 2**20)

    async def ask():
        transport = httpx.ASGITransport(app=guarded)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}:8000") as client:
            return await request(client)

    return asyncio.run(ask()), uploads


def post(**parts):
    return lambda client: client.post("/predict", **parts)


def get(path, **options):
    return lambda client: client.get(path, **options)


def test_a_clip_is_answered_by_the_schema():
    files = {"video": ("clip.mp4", b"film"), "audio": ("voice.wav", b"sound")}
    response, uploads = asked(post(files=files, data={"text": "words", "stretch_s": "2"}))
    assert uploads == [Upload(("clip.mp4", b"film"), ("voice.wav", b"sound"), "words", 2.0)]
    assert Answer(**response.json()) == answered()
    schema, _ = asked(get("/openapi.json"))
    fields = schema.json()["components"]["schemas"]["Answer"]["properties"]
    assert fields.keys() == response.json().keys()
    assert all("description" in field for field in fields.values())


def test_bad_requests_have_a_status_and_a_reason():
    async def broken(upload):
        return answered(label=None, parts={}, statuses={"video": "corrupt: moov atom not found"})

    async def slow(upload):
        await asyncio.sleep(60)

    async def busy(upload):
        raise Busy

    words = {"data": {"text": "words"}}
    for status, reason, (response, _) in [
        (400, "video, audio or text", asked(post(data={"text": " "}))),
        (413, "serve.max_mb", asked(post(files={"video": b"x" * 2**21}), max_mb=1)),
        (422, "moov atom not found", asked(post(**words), predict=broken)),
        (422, "stretch_s", asked(post(data={"text": "a", "stretch_s": "-1"}))),
        (422, "text: ", asked(post(files={"text": ("secret.txt", b"words")}))),
        (503, "later", asked(post(**words), predict=busy)),
        (504, "serve.timeout_s", asked(post(**words), predict=slow, timeout_s=0.01)),
    ]:
        assert (response.status_code, reason in response.json()["detail"]) == (status, True), response.text
        assert "secret" not in response.text


def test_a_body_without_a_length_is_bounded_too():
    async def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(64):
            yield b"x" * 2**16
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response, uploads = asked(post(content=parts(), headers=headers), max_mb=1)
    assert (response.status_code, uploads) == (413, [])


@pytest.mark.parametrize("path", ["/predict", "/docs", "/openapi.json", "/anything"])
def test_a_token_is_wanted_where_one_is_set(path):
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    right = [f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}"]
    wrong = ["", "Bearer", f"Bearer {TOKEN}x", "Basic ???", "Basic bWU6bm8=", f"Digest {TOKEN}", "Bearer \xff"]
    for value in right + wrong:
        headers = {"authorization": value.encode("latin-1")}
        response, _ = asked(get(path, headers=headers), token=TOKEN, host="10.0.0.1")
        assert (response.status_code == 401) == (value in wrong), value
    assert asked(get("/health"), token=TOKEN)[0].json() == {"status": "ok", "model": "model-1", "labels": list(LABELS)}


def test_without_a_token_pages_from_elsewhere_cannot_ask():
    for host, status in [("127.0.0.1", 200), ("localhost", 200), ("[::1]", 200), ("evil.example", 421)]:
        assert asked(get("/health"), host=host)[0].status_code == status
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "10.0.0.1": False, "a.example": False}
    assert {host: is_loopback(host) for host in hosts} == hosts


def test_the_page_of_documentation_loads_nothing():
    response, _ = asked(get("/docs"))
    assert "connect-src 'self'" in response.headers["content-security-policy"]
    assert not any(tag in response.text for tag in ("<script", "<link", "<img", "src="))
    assert "&lt;b&gt;glad&lt;/b&gt;" in response.text


def test_drawings_escape_what_comes_from_data():
    jpeg = base64.b64encode(b"jpeg").decode()
    stretches = [Stretch(start_s=0, end_s=2, label="<b>glad</b>", probabilities={"<b>glad</b>": 1.0})]
    answer = answered(frames=[jpeg] * 2, attention=[0.25, 0.75], over_time=stretches)
    page = drawings.verdict(answer, ["text"]) + drawings.details(answer) + drawings.refusal("<i>no</i>")
    for text in ("<script>", "<b>glad", "<i>no"):
        assert text not in page
        assert html.escape(text) in page
    assert "75 %" in page
    assert "0:00 to 0:02" in page


def test_the_modalities_that_are_switched_on_choose_the_probabilities():
    names, rng = ("video", "audio", "text"), np.random.default_rng(0)
    shares = iter(rng.dirichlet((1, 1), 7).tolist())

    def some():
        return dict(zip(LABELS, next(shares), strict=True))

    answer = answered(probabilities=some(), parts={n: some() for n in names}, without={n: some() for n in names})
    assert drawings.chosen(answer, names) == answer.probabilities
    assert drawings.chosen(answer, ["audio"]) == answer.parts["audio"]
    assert drawings.chosen(answer, ["video", "text"]) == answer.without["audio"]
    assert drawings.chosen(answer, []) is None
    pair = answered(parts={n: answer.parts[n] for n in names[:2]}, without={})
    assert drawings.chosen(pair, names) == pair.probabilities
    assert ["without video" in drawings.details(clip) for clip in (answer, pair)] == [True, False]
    assert drawings.chosen(pair, ["audio", "text"]) == answer.parts["audio"]
