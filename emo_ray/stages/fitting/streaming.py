"""Rows of Ray Data, or of a table in memory, as batches: read, shuffled within a buffer, and collated by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import pyarrow as pa
import ray.data

from emo_ray.data.batch import Batch

_AHEAD = 2  # batches that are read, and as many that are decoded, while an earlier one is used

Rows: TypeAlias = ray.data.Dataset | ray.data.DataIterator | pa.Table


def all_rows(rows: Rows) -> pa.Table:
    """The rows as one table."""
    if isinstance(rows, pa.Table):
        return rows
    blocks = rows.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type] # None: whole blocks
    return pa.concat_tables(blocks)


def in_tables(
    rows: Rows, batch_size: int, shuffle_buffer: int | None = None, seed: int | None = None
) -> Iterable[pa.Table]:
    """One pass over the rows in tables of a batch each, read ahead; shuffled within a buffer, where Ray Data reads."""
    if isinstance(rows, pa.Table):
        assert shuffle_buffer is None, "rows in memory are shuffled as a whole"
        return (rows.slice(first, batch_size) for first in range(0, len(rows), batch_size))
    tables: Iterable[pa.Table] = rows.iter_batches(
        batch_size=batch_size,
        batch_format="pyarrow",
        prefetch_batches=_AHEAD,
        local_shuffle_buffer_size=shuffle_buffer,
        local_shuffle_seed=seed,
    )
    return tables


def collated(tables: Iterable[pa.Table], collate: Callable[[pa.Table], Batch]) -> Iterator[Batch]:
    """The batches of tables, made by threads while earlier ones are used."""
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(_AHEAD) as threads:
        for table in tables:
            waiting.append(threads.submit(collate, table))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
