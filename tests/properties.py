"""Properties that are tested twice: over a few examples with every run, over thousands among the slow tests."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

MANY = 5_000


def result_or_message(function: Callable[[], Any]) -> tuple[Any, str]:
    """What a function returns; or None, and the message of the error that a user sees.

    Exactly ValueError: libraries derive theirs from it, and those reach a user as a traceback.
    """
    try:
        return function(), ""
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        return None, str(error)


def holds_for(few: int, many: int = MANY, **drawn: SearchStrategy) -> Callable:
    """Make a test of a function `check(folder, **drawn)`: it holds for what the strategies draw.

    All examples share one folder, each writes over the last one's files.
    """

    def test_of(check: Callable) -> Callable:
        @pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])
        def test(examples, tmp_path):
            @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
            @given(**drawn)
            def example(**values):
                check(tmp_path, **values)

            example()

        return test

    return test_of
