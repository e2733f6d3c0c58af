"""An endpoint on loopback for chats and for sounds, which answers as its caller asks it to."""

import io
import json
import random
import socket
import struct
import threading
import time
import wave
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from email import policy
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "503", "silence", "reset", "malformed", "cut off", "formless")
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
_SILENCE_S = 20.0
Reply = tuple[int, Mapping[str, str], str | bytes | Iterable[bytes]]  # status, headers, body


class Chat(ThreadingHTTPServer):
    """An endpoint that counts requests by transcript, of prompts such as "In English: TRANSCRIPT".

    For sounds it counts them by "say BYTES", with the number of bytes of the file. Of messages in parts it takes the
    transcript from the part that says it, and answers a JSON schema that asks for a label with its last word.

    The first word of a transcript is what becomes of it: refuse, filter, empty, long, uncounted, echo, or an answer.
    `fault_rate`: share of requests that fail, drawn by transcript and attempt. `script`: what the next requests get,
    whatever their words are; a body is text, bytes or chunks, which are sent until the client hangs up.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, fault_rate: float = 0.0, delay_s: float = 0.0, script: Sequence[Reply] = (), takes_schema: bool = True
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault_rate, self.delay_s, self.script = fault_rate, delay_s, list(script)
        self.takes_schema = takes_schema
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.times_s: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.busy = self.busiest = 0
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        """The address for `annotate.url`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def chat(self) -> Chat:
        assert isinstance(self.server, Chat)
        return self.server

    def do_POST(self) -> None:
        chat = self.chat
        content = self.rfile.read(int(self.headers["Content-Length"]))
        is_sound = self.path.endswith("/audio/transcriptions")
        body = form_of(self.headers["Content-Type"], content) if is_sound else json.loads(content)
        transcript = f"say {len(body['file'])}" if is_sound else words_of(body["messages"][0]["content"])
        with chat.guard:
            chat.asked[transcript] += 1
            chat.bodies.append(body)
            chat.times_s.append(time.monotonic())
            chat.keys.add(self.headers["Authorization"])
            chat.busy += 1
            chat.busiest = max(chat.busiest, chat.busy)
            dice = random.Random(f"{transcript} {chat.asked[transcript]}")
            scripted = chat.script.pop(0) if chat.script else None
        time.sleep(chat.delay_s)
        with chat.guard:
            chat.busy -= 1  # before the client can know and send its next
        if scripted:
            self.reply(*scripted)
        elif dice.random() < chat.fault_rate:
            self.fail(dice.choice(FAULTS))
        elif "response_format" in body and not is_sound and not chat.takes_schema:
            self.reply(400, {}, json.dumps({"error": {"message": "response_format is not supported", "code": None}}))
        else:
            with chat.guard:
                chat.answered[transcript] += 1
            is_schema = "response_format" in body
            key = self.headers["Authorization"]
            answer = transcription(body) if is_sound else completion(transcript, key, is_schema)
            self.reply(200, {}, answer)

    def fail(self, kind: str) -> None:
        self.chat.faults[kind] += 1
        echo = json.dumps({"error": {"message": f"not now, {self.headers['Authorization']}", "code": None}})
        if kind == "429":
            self.reply(429, {"Retry-After": "0.05"}, echo)
        elif kind in ("500", "503"):
            self.reply(int(kind), {}, echo)
        elif kind == "silence":
            self.connection.settimeout(_SILENCE_S)
            self.connection.recv(1)  # until the client gives up
            self.close_connection = True
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif kind == "cut off":
            self.reply(200, {"Content-Length": "500"}, '{"choices": [')
            self.close_connection = True
        else:
            self.reply(200, {}, {"malformed": '{"choices": [{"mess', "formless": '{"object": "list"}'}[kind])

    def reply(self, status: int, headers: Mapping[str, str], body: str | bytes | Iterable[bytes]) -> None:
        if not isinstance(body, str | bytes):
            self.send_response(status)
            self.send_header("Connection", "close")
            self.end_headers()
            for chunk in body:
                self.wfile.write(chunk)
            return
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def words_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The transcript in a message: behind a colon, or in quotes in the second of its parts."""
    if isinstance(content, str):
        return content.partition(": ")[2]
    texts = [part["text"] for part in content if part["type"] == "text"]
    return texts[1].partition(": ")[2].strip('"') if len(texts) > 1 else ""


def form_of(content_type: str, content: bytes) -> dict[str, Any]:
    """The fields of a form that is sent as multipart: text, and the file as bytes."""
    message = BytesParser(policy=policy.HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    fields: dict[str, Any] = {str(name): part.get_payload(decode=True) for name, part in parts.items()}
    return {name: value if name == "file" else value.decode() for name, value in fields.items()}


def transcription(form: Mapping[str, Any]) -> str:
    """The JSON of an answer to a sound, which says how many samples it has, in two segments."""
    with wave.open(io.BytesIO(form["file"])) as sound:
        text = f" {sound.getnframes()} samples at {sound.getframerate()} Hz "
    segments = [{"avg_logprob": -0.2, "no_speech_prob": 0.3}, {"avg_logprob": -0.4, "no_speech_prob": 0.1}]
    return json.dumps({"text": text, "language": "english", "segments": segments})


def completion(transcript: str, authorization: str | None, is_schema: bool = False) -> str:
    """The JSON of an answer to a transcript."""
    kind = transcript.partition(" ")[0]
    content = json.dumps({"label": transcript.rpartition(" ")[2]}) if is_schema else f" They mean: {transcript}\n"
    message: dict[str, str | None] = {"role": "assistant", "content": content}
    if kind == "refuse":
        message |= {"content": None, "refusal": "I would rather not."}
    elif kind == "empty":
        message["content"] = " \n"
    elif kind == "echo":
        message["content"] = f"You are {authorization}, \ud83d."
    reason = {"filter": "content_filter", "long": "length"}.get(kind, "stop")
    answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": reason}]
    return json.dumps(answer if kind == "uncounted" else answer | {"usage": USAGE})
