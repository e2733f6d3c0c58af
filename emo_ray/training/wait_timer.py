"""How long a consumer waits for what it works on."""

import time
from collections.abc import Iterable, Iterator


class WaitTimer:
    """An iterable that adds up the seconds that its consumer waits for items."""

    def __init__(self, items: Iterable, seconds: float = 0.0):
        self.items, self.seconds = items, seconds

    def __iter__(self) -> Iterator:
        iterator, end = iter(self.items), object()
        while True:
            begun_s = time.perf_counter()
            item = next(iterator, end)
            self.seconds += time.perf_counter() - begun_s
            if item is end:
                return
            yield item
