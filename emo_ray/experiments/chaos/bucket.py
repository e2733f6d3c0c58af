"""A bucket on loopback that refuses what its caller asks it to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Bucket(ThreadingHTTPServer):
    """The files of a folder as objects, on loopback, answered for as S3 does.

    `refused` are names of objects with the HTTP status that they get instead.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.refused: dict[str, int] = {}

    def address(self, name: str) -> str:
        """The URI of an object, as a manifest may hold it."""
        return f"s3://key:hidden@bucket/{name}?scheme=http&endpoint_override=127.0.0.1%3A{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in a single packet: a second one waits for 40 ms

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        file = self.server.folder / Path(self.path.partition("?")[0]).name
        status = self.server.refused.get(file.name, 200 if file.is_file() else 404)
        content = file.read_bytes() if status == 200 else b""
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(206 if span and status == 200 else status)
        if span and status == 200:
            size, content = len(content), content[int(span[1]) : int(span[2]) + 1]
            self.send_header("Content-Range", f"bytes {span[1]}-{int(span[1]) + len(content) - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 26 Nov 2020 00:00:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def serving(folder: Path) -> Iterator[Bucket]:
    """The bucket while the block runs."""
    with Bucket(folder) as bucket:
        thread = Thread(target=bucket.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield bucket
        bucket.shutdown()
        thread.join()
