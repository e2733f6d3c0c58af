"""Which setting decides which artefact: the artefacts, how they are made from each other, and the parts of their keys.

An artefact's key is a digest of `settings_of(config, artefact)`, the keys of the artefacts that it is made from, what
its `by_content` settings lead to, and the version of the code that makes it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from emo_ray.config.setting import Decisions
from emo_ray.config.tree import Config, declarations, flatten, leaves


@dataclass(frozen=True)
class Artefact:
    """What a stage makes.

    `made_from`: the artefacts that it takes; they are in its key by their own. `repeats`: the artefacts that it makes
    anew itself, several times with other data or settings, so that their settings are in its key. `searches`: it may
    change any setting in that, so settings count that decide nothing as the config stands.
    """

    about: str
    made_from: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    searches: bool = False


ARTEFACTS = {
    "corpus": Artefact("the clips: those of a manifest, or synthetic ones"),
    "segments": Artefact("the utterances of recordings", made_from=("corpus",)),
    "frozen_clip": Artefact("the frozen CLIP: its architecture, weights and image size"),
    "shards": Artefact("decoded clips", made_from=("corpus",)),
    "splits": Artefact("who is in train, validation, test and unlabelled", made_from=("corpus", "shards")),
    "transcripts": Artefact("what a recogniser heard in clips without a transcript", made_from=("shards",)),
    "readings": Artefact("a stronger model's readings of the transcripts", made_from=("corpus", "transcripts")),
    "audio_features": Artefact("features of sound", made_from=("shards",)),
    "text_features": Artefact("features of transcripts", made_from=("shards", "transcripts", "readings")),
    "emovclip": Artefact("the trained prompts of the video model", made_from=("frozen_clip", "splits")),
    "video_features": Artefact("features of video", made_from=("shards", "emovclip")),
    "fusion": Artefact(
        "the model: a fusion head over all features",
        made_from=("splits", "video_features", "audio_features", "text_features"),
    ),
    "predictions": Artefact("probabilities of clips", made_from=("fusion",)),
    "report": Artefact("a model's scores on a split", made_from=("fusion",)),
    "folds": Artefact("scores of cross-validation", made_from=("splits", "audio_features", "text_features")),
    "pseudo_labels": Artefact("accepted and refused predictions of unlabelled clips", made_from=("fusion",)),
    "self_training": Artefact(
        "rounds of teachers and students", made_from=("fusion",), repeats=("emovclip", "fusion", "pseudo_labels")
    ),
    "sweep": Artefact(
        "trials with changed settings, and the best of them",
        made_from=("fusion",),
        repeats=("audio_features", "text_features", "emovclip", "fusion"),
        searches=True,
    ),
    "claims": Artefact(
        "trials of the paper's claims on synthetic worlds",
        made_from=("corpus", "frozen_clip", "audio_features", "text_features"),
        repeats=("emovclip", "fusion", "pseudo_labels"),
    ),
}


def settings_of(config: Config, artefact: str) -> dict[str, Any]:
    """The dotted keys and JSON-able values that decide an artefact beside the artefacts that it is made from.

    Settings that decide by content are not in it, nor those whose condition does not hold in this config. Values are
    normalised where they are declared.
    """
    values, searches = flatten(config), ARTEFACTS[artefact].searches
    declared = declarations()
    return {
        key: declared[key].normalised(values[key])
        for key, decisions in _decisions_by_value(artefact).items()
        if searches or any(decision.only_if is None or decision.only_if.holds(config) for decision in decisions)
    }


@cache
def _decisions_by_value(artefact: str) -> dict[str, Decisions]:
    """The decisions on an artefact, or on those that it repeats, by value, by the dotted keys that make them."""
    names = (artefact, *ARTEFACTS[artefact].repeats)
    of_key = {
        key: tuple(decision for decision in declared.decides if decision.artefact in names and decision.by == "value")
        for key, declared in declarations().items()
    }
    return {key: decisions for key, decisions in of_key.items() if decisions}


def decided_by(key: str) -> tuple[str, ...]:
    """All artefacts that a setting may decide: directly, or through what they are made from."""
    declared = declarations()[key]
    names = {decision.artefact for decision in declared.decides}
    for name, artefact in ARTEFACTS.items():  # in which each stands behind what it is made from
        if names & set(artefact.made_from) or any(map(declared.decides_by_value, artefact.repeats)):
            names.add(name)
    return tuple(name for name in ARTEFACTS if name in names)


def keys_of_caller() -> list[str]:
    """The dotted keys that a model given as `checkpoint` does not bring along, such as places and data."""
    return [key for key, declared in declarations().items() if declared.owner == "caller"]


def key_table() -> str:
    """Plain text, a line for each dotted key: what it decides directly -> what it decides through that.

    `name=` is decided by value, `name~` by content; [...] is the condition.
    """
    lines = []
    for key in leaves():
        direct: dict[str, str] = {}
        for decision in declarations()[key].decides:
            condition = f" [where {decision.only_if.words}]" if decision.only_if else ""
            direct[decision.artefact] = f"{decision.artefact}{'=' if decision.by == 'value' else '~'}{condition}"
        through = [name for name in decided_by(key) if name not in direct]
        shown = ", ".join(direct.values()) or "nothing"
        lines.append(f"{key:32} {shown}{' -> ' + ', '.join(through) if through else ''}")
    return "\n".join(lines)
