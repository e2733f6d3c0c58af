"""Another valid value of a setting, for tests that change every key of the config."""

from typing import get_args

from emo_ray.config import field_of


def other_value(key, value, chosen):
    """The value that `chosen` names for this key, or one by the type and the choices of its field."""
    if key in chosen:
        return chosen[key]
    kinds = get_args(field_of(key).annotation)
    words = [word for word in kinds if isinstance(word, str)]
    if words:
        return next(word for word in words if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9
    if value is None and bool in kinds:
        return False
    if value is None and str not in kinds:
        return 2
    return f"{value} too"
