"""Work on many files: in order and reported, whether it is done at once or handed to threads."""

import threading

import pytest

from emo_ray.data import file_digests


@pytest.mark.parametrize("at_once_s", [0.0, 60.0], ids=["threads", "at once"])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_results_are_in_order_and_all_are_reported(monkeypatch, at_once_s, count):
    monkeypatch.setattr(file_digests, "_AT_ONCE_S", at_once_s)
    threads, reports = set(), []

    def square(number):
        threads.add(threading.current_thread())
        return number**2

    results = file_digests.in_threads(square, range(count), lambda done, total: reports.append((done, total)))
    assert results == [number**2 for number in range(count)]
    assert reports[-1] == (count, count)
    assert reports == sorted(reports)
    assert (threading.main_thread() in threads) == (at_once_s > 0 and count > 0)
