"""Text in encodings other than UTF-8: which ones a file's bytes are likely to be in."""

import re
from collections.abc import Callable
from pathlib import Path

from emo_ray.data import lfs

_SAMPLE = 2000  # characters beyond ASCII by which an encoding is judged
_LIKELY = 0.7  # least share of them that texts of the encoding's languages use often
_SHOWN = 4  # encodings named in one error message
_EXCERPT = 12  # characters


def read_text(path: Path, encoding: str | None = None) -> str:
    """A file's text without its byte order mark, in an encoding or (None) in UTF-8, with line ends as they are.

    Raises ValueError for a Git LFS pointer, and where the bytes are not in this encoding; it names likely ones.
    """
    if lfs.is_pointer(path):
        raise ValueError(f"{path}: found a Git LFS pointer, expected the file that it stands for: {lfs.ADVICE}")
    content = path.read_bytes()
    try:
        return content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeError as error:
        likely = [f"{name} ({excerpt!r})" for name, excerpt in likely_encodings(content).items()]
        hint = f"set data.encoding to one of these if its text is right: {', '.join(likely)}; or " if likely else ""
        raise ValueError(
            f"{path}: found bytes that are not {encoding or 'UTF-8'}, expected text: {hint}save the file as UTF-8"
        ) from error


def likely_encodings(content: bytes) -> dict[str, str]:
    """Encodings in which bytes are text of a usual kind, likeliest first, each with an excerpt of that text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return {"utf-16": content.decode("utf-16")[:_EXCERPT]}
        except UnicodeError:
            return {}
    likelihood_of: dict[str, float] = {}
    excerpt_of: dict[str, str] = {}
    for encoding, is_usual in _USUAL.items():
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        beyond_ascii = [character for character in text if character > "\x7f"][:_SAMPLE]
        if beyond_ascii:
            likelihood_of[encoding] = sum(map(is_usual, beyond_ascii)) / len(beyond_ascii)
            before = text[: text.index(beyond_ascii[0])]
            start = len(before) - len(re.split(r"[\s,;\"']", before)[-1])  # of the word
            excerpt_of[encoding] = text[start : start + _EXCERPT].partition("\n")[0].strip()
    ranked = sorted(likelihood_of, key=lambda encoding: -likelihood_of[encoding])
    return {name: excerpt_of[name] for name in ranked[:_SHOWN] if likelihood_of[name] >= _LIKELY}


def _has_lead(encoding: str, *ranges: tuple[int, int]) -> Callable[[str], bool]:
    """A test whether the first of a character's two bytes in an encoding lies in one of these ranges."""

    def is_usual(character: str) -> bool:
        code = character.encode(encoding, errors="ignore")
        return len(code) == 2 and any(first <= code[0] <= last for first, last in ranges)

    return is_usual


def _is_japanese(character: str) -> bool:
    return "\u3040" <= character <= "\u30ff" or _KANJI(character)


# Leads of punctuation, and of the characters that the standards list first because they are used most.
_KANJI = _has_lead("shift_jis", (0x81, 0x81), (0x88, 0x97))
_USUAL: dict[str, Callable[[str], bool]] = {
    "cp949": lambda character: "\uac00" <= character <= "\ud7a3",
    "gb18030": _has_lead("gb2312", (0xA1, 0xA1), (0xA3, 0xA3), (0xB0, 0xD7)),
    "cp932": _is_japanese,
    "euc_jp": _is_japanese,
    "big5": _has_lead("big5", (0xA1, 0xA1), (0xA4, 0xC6)),
    "cp1251": lambda character: "\u0410" <= character <= "\u044f" or character in "ёЁ",
    "cp1252": lambda character: (
        (character.islower() and character < "\u0180") or character in "ÄÖÜÅÆØÉÈÊÀÇÑÁÍÓÚŒ‘’“”–—…«»¿¡"
    ),
}
