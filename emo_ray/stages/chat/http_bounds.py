"""An HTTP client that keeps an endpoint within bounds: no redirects are followed, and answers end after a few MB."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2

MOST_BYTES = 2**22  # of an answer's body


class OutOfBounds(Exception):
    """An answer that no such endpoint gives; the message says what was found and what is expected."""


class BoundedStream(httpx2.AsyncByteStream):
    """A body that raises `OutOfBounds` where it goes on beyond MOST_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream):
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_bytes = 0
        async for chunk in self.stream:
            read_bytes += len(chunk)
            if read_bytes > MOST_BYTES:
                raise OutOfBounds(f"found an answer of more than {MOST_BYTES} bytes, expected a shorter one")
            yield chunk

    async def aclose(self) -> None:
        """Hang up."""
        await self.stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    if response.is_redirect:
        target = response.headers["location"][:200]
        raise OutOfBounds(f"found a redirect to {target}, expected answers from this address: no redirect is followed")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise OutOfBounds(f"found a body in {encoding[:40]}, expected one that is not compressed, as was asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream), "the client is asynchronous"
    response.stream = BoundedStream(response.stream)


# Arguments of `openai.DefaultAsyncHttpxClient`, which lets `OutOfBounds` through. A redirect would take transcripts and
# the key to a host that nobody named. Compression is neither asked for nor taken: little could become much.
BOUNDS: dict[str, Any] = {
    "follow_redirects": False,
    "headers": {"Accept-Encoding": "identity"},
    "event_hooks": {"response": [_bound]},
}
