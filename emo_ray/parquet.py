"""Parquet files of the store: written atomically, and damage in them is noticed.

Pages have checksums, and the footer has a digest in front of it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from emo_ray import bucket
from emo_ray.durable import renamed
from emo_ray.store import DamagedFile

_PARQUET, _SEAL, _DIGEST_BYTES = b"PAR1", b"emo_ray footer: ", 16

LIGHT_ROWS = 2**12  # in a group of rows without media
NAME_ROWS = 2**16  # in a group of rows that say no more than a manifest does


def write(path: Path, table: pa.Table, rows_per_group: int = 32, codec: str = "zstd") -> None:
    """Write a Parquet file atomically; small row groups so that readers can stream.

    Pages have checksums, and the footer has a digest in front of it, where other readers of Parquet do not look.
    """
    with renamed(path) as temporary:
        pq.write_table(table, temporary, row_group_size=rows_per_group, compression=codec, write_page_checksum=True)
        with temporary.open("r+b") as stream:
            footer = _footer(stream)
            stream.seek(-len(footer), os.SEEK_END)
            stream.write(_SEAL + _footer_digest(footer) + footer)


def read(path: Path, **options: Any) -> pa.Table:
    """The rows of a file that `write` wrote; `options` are those of pyarrow, such as `columns` and `filters`.

    Files of earlier versions have no checksums; of them only what Parquet itself tells is noticed. Raises DamagedFile
    for a file that is cut or damaged, and OSError for trouble with reading.
    """
    bucket.fetch(path)
    try:
        _check_footer(path)
        return pq.read_table(path, page_checksum_verification=True, **options)
    except DamagedFile:
        raise
    except Exception:
        if (damage := damage_of(path)) is None:
            raise  # the file is whole: trouble of this machine, or options that do not fit
        raise damage from None


def damage_of(path: Path) -> DamagedFile | None:
    """What is wrong with a Parquet file, told by reading all of it; None where it is whole.

    Raises OSError and MemoryError for trouble with reading.
    """
    bucket.fetch(path)
    try:
        _check_footer(path)
        with path.open("rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            file.read()
    except DamagedFile as damage:
        return damage
    except MemoryError:
        raise
    except Exception as error:  # damage makes Arrow fail in any way
        if getattr(error, "errno", None) is not None:  # errors of content have none
            raise
        return DamagedFile(path, str(error).partition("\n")[0][:200])
    return None


def _check_footer(path: Path) -> None:
    """Raises DamagedFile where a Parquet file has no footer, or another than `write` wrote."""
    with path.open("rb") as stream:
        footer = _footer(stream)
        stream.seek(-min(len(footer) + len(_SEAL) + _DIGEST_BYTES, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        seal = stream.read(len(_SEAL) + _DIGEST_BYTES)
    if len(footer) <= 8 or footer[-4:] != _PARQUET:
        raise DamagedFile(path, "no end of a Parquet file")
    if seal.startswith(_SEAL) and seal != _SEAL + _footer_digest(footer):
        raise DamagedFile(path, "a footer that differs from its digest")


def _footer(stream: BinaryIO) -> bytes:
    """The end of a Parquet file: its metadata, their length in 4 bytes, and PAR1. As much as there is of it."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(-min(8, size), os.SEEK_END)
    length = int.from_bytes(stream.read(4), "little") + 8
    stream.seek(-min(length, size), os.SEEK_END)
    return stream.read(length)


def _footer_digest(footer: bytes) -> bytes:
    return hashlib.blake2b(footer, digest_size=_DIGEST_BYTES).digest()
