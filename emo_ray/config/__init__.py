"""One frozen tree of settings: every key with its default, bounds, description and what it decides; the recipes.

Reading order: setting, model_settings, fusion_settings, train_settings, data_settings, media_settings, table_settings,
endpoint_settings, cluster_settings, job_settings, sweep_settings, yaml_core, tree, words, decides, explain.
"""

from emo_ray.config.decides import ARTEFACTS, decided_by, key_table, keys_of_caller, settings_of
from emo_ray.config.tree import (
    RECIPES,
    Config,
    absolute_paths,
    choices,
    declarations,
    dump,
    field_of,
    flatten,
    inputs,
    is_recipe,
    leaf_of,
    leaves,
    load,
    override,
    parse_overrides,
    recipe,
    recipe_names,
    sections,
    value_of,
)
from emo_ray.config.words import Words, joined_words, parse_words

__all__ = [
    "ARTEFACTS",
    "RECIPES",
    "Config",
    "Words",
    "absolute_paths",
    "choices",
    "decided_by",
    "declarations",
    "dump",
    "field_of",
    "flatten",
    "inputs",
    "is_recipe",
    "joined_words",
    "key_table",
    "keys_of_caller",
    "leaf_of",
    "leaves",
    "load",
    "override",
    "parse_overrides",
    "parse_words",
    "recipe",
    "recipe_names",
    "sections",
    "settings_of",
    "value_of",
]
