"""Trouble of the place: tried again with waits, told from faults of the content, and listed."""

import errno
import os
import pickle

import pytest

from emo_ray import trouble
from emo_ray.trouble import PlaceTrouble

PATIENCE_S = 20.0


class Failing:
    """Work that meets trouble with each item as often as `times` says, and otherwise doubles the item."""

    def __init__(self, times):
        self.left = dict(times)
        self.calls = []

    def __call__(self, item):
        self.calls.append(item)
        if self.left.get(item, 0):
            self.left[item] -= 1
            raise PlaceTrouble({f"/media/{item}": "away"})
        return 2 * item


def test_what_meets_trouble_is_tried_again_alone_and_results_keep_their_order():
    work, waits = Failing({1: 2, 3: 1}), []
    assert trouble.in_rounds(work, [0, 1, 2, 3], PATIENCE_S, waits.append) == [0, 2, 4, 6]
    assert work.calls == [0, 1, 2, 3, 1, 3, 1]
    assert len(waits) == 2


def test_trouble_that_stays_is_listed_after_waits_of_the_patience_at_most():
    waits = []
    work = Failing({1: 99, 2: 99})
    with pytest.raises(PlaceTrouble) as caught:
        trouble.in_rounds(work, [0, 1, 2], PATIENCE_S, waits.append)
    assert caught.value.reasons == {"/media/1": "away", "/media/2": "away"}
    assert 3 <= len(waits) < 10
    assert PATIENCE_S / 4 < sum(waits) <= PATIENCE_S
    assert waits == sorted(waits)
    assert work.calls.count(0) == 1


def test_without_patience_each_item_is_tried_once():
    work = Failing({1: 1})
    with pytest.raises(PlaceTrouble):
        trouble.in_rounds(work, [0, 1, 2], 0.0, pytest.fail)
    assert work.calls == [0, 1, 2]


def test_other_errors_are_raised_at_once():
    with pytest.raises(TypeError):
        trouble.in_rounds(lambda item: item + "", [1], PATIENCE_S, pytest.fail)


def test_waits_differ_from_process_to_process():
    assert list(trouble.delays_s(PATIENCE_S)) != list(trouble.delays_s(PATIENCE_S))


def test_parts_are_all_done_before_what_is_unread_is_raised():
    answers = (trouble.unread(lambda item=item: Failing({2: 1, 3: 1})(item)) for item in range(5))
    with pytest.raises(PlaceTrouble) as caught:
        trouble.check_read(answers)
    assert caught.value.reasons == {"/media/2": "away", "/media/3": "away"}
    assert next(answers, None) is None
    trouble.check_read(["", ""])


def test_the_message_counts_names_a_few_and_says_what_to_do_without_secrets():
    reasons = {f"s3://key:hidden@bucket/{i}.wav?token=hidden": "503" for i in range(12)}
    message = str(PlaceTrouble(reasons))
    for word in ("(12)", "s3://bucket/0.wav: 503", "9 more", "run the same command again"):
        assert word in message
    assert "hidden" not in message


def test_it_crosses_processes():
    again = pickle.loads(pickle.dumps(PlaceTrouble({"/a": "away"})))
    assert again.reasons == {"/a": "away"}


@pytest.mark.parametrize(
    ("error", "is_of_place"),
    [
        *(
            (OSError(number, os.strerror(number)), True)
            for number in (errno.EACCES, errno.EMFILE, errno.EIO, errno.ESTALE, errno.EHOSTUNREACH, errno.ECONNRESET)
        ),
        *((OSError(number, os.strerror(number)), False) for number in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)),
        (OSError(errno.ENOMEM, "more than any content needs"), False),  # for this process has room
        (MemoryError(), False),
        (ValueError("Permission denied"), False),
    ],
)
def test_trouble_is_told_from_faults_of_the_content(error, is_of_place):
    assert trouble.is_of_place(error) == is_of_place


def test_errors_of_buckets_are_trouble_unless_nothing_is_there():
    with pytest.raises(PlaceTrouble):
        trouble.raise_of_place(OSError("AWS Error SLOW_DOWN"), "s3://bucket/a.wav")
    trouble.raise_of_place(FileNotFoundError("Path does not exist"), "s3://bucket/a.wav")
    trouble.raise_of_place(OSError("Not a regular file"), "s3://bucket/a.wav")
    trouble.raise_of_place(OSError("of the content"), "/media/a.wav")


@pytest.mark.parametrize(
    ("error", "is_outside"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (PlaceTrouble({"/media/1": "away"}), True),
        (MemoryError(), False),
        (RuntimeError("CUDA out of memory"), False),
        (ValueError("fusion.lr=1e+30: training diverged"), False),
    ],
)
def test_no_setting_is_to_blame_for_trouble_other_than_a_lack_of_memory(error, is_outside):
    assert trouble.has_no_setting_to_blame(error) == is_outside
