"""Secrets that no message may show: what is known to be secret is starred out of log lines, streams and errors."""

import base64
import io
import logging
import re
from collections.abc import Iterable
from typing import TextIO
from urllib.parse import parse_qsl, unquote

from emo_ray.config.job_settings import login_of

STARS = "***"
_SURELY_UNIQUE = 8  # characters; a shorter secret is replaced only where it stands alone, for words may hold it
_LOGIN = re.compile(r"([\w+.-]+://)[^\s/:@'\"]*:[^\s/'\"]*@")  # user:password of any address
_ADDRESS = re.compile(r"[\w+.-]+://[^\s'\"]+")
_SECRET_FIELD = re.compile(r"password|passwd|pwd|secret|token|key|credential|signature|odbc_connect", re.IGNORECASE)
_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Star these out of everything from now on, as they are and as an address or a header spells them."""
    spellings = {spelling for secret in secrets for spelling in (secret, unquote(secret))}
    for secret in spellings - {""}:
        _secrets.update({secret, base64.b64encode(secret.encode()).decode()})


def secrets_in(text: str) -> set[str]:
    """What is secret in the addresses of a text: user:password, the password, and fields such as `?token=`."""
    secrets: set[str] = set()
    for address in _ADDRESS.findall(text):
        login = login_of(address)
        secrets |= {login, login.partition(":")[2]}
        fields = parse_qsl(address.partition("?")[2])
        secrets |= {value for name, value in fields if _SECRET_FIELD.search(name)}
    return secrets - {""}


def redacted(text: str) -> str:
    """A text with stars in place of hidden secrets, and of user:password in any address."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if len(secret) >= _SURELY_UNIQUE:
            text = text.replace(secret, STARS)
        elif secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", STARS, text)
    return _LOGIN.sub(rf"\1{STARS}@", text) if "://" in text else text


class RedactedStream(io.TextIOBase):
    """A stream that stars secrets out of what is written to another."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets; all of its characters count as written."""
        self._stream.write(redacted(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream beneath is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The file descriptor beneath, which is not redacted."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """The encoding of the stream beneath."""
        return self._stream.encoding


def redact_log_records() -> None:
    """Star secrets out of the records of all loggers in this process, those of libraries among them."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*arguments: object, **options: object) -> logging.LogRecord:
        record = make(*arguments, **options)
        message = record.getMessage()
        if (text := redacted(message)) != message:
            record.msg, record.args = text, ()
        if record.exc_info and record.exc_info[1] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            if (text := redacted(trace)) != trace:
                record.exc_info, record.exc_text = None, text
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]  # marks it, so that it wraps no other of its kind
    logging.setLogRecordFactory(make_redacted)
