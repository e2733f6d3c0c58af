"""One frozen tree of settings: every key with its default, bounds and reason; the recipes; the one way to change it.

Reading order: model_settings, job_settings, tree.
"""

from emo_ray.config.tree import (
    RECIPES,
    Config,
    absolute_paths,
    choices,
    dump,
    flatten,
    leaf_of,
    leaves,
    load,
    override,
    parse_overrides,
    recipe,
)

__all__ = [
    "RECIPES",
    "Config",
    "absolute_paths",
    "choices",
    "dump",
    "flatten",
    "leaf_of",
    "leaves",
    "load",
    "override",
    "parse_overrides",
    "recipe",
]
