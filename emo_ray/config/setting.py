"""How a setting is declared: its default, bounds and description, which artefacts it decides, and whom it belongs to.

Each of these is said where the setting stands, by `setting(...)` or, for all settings of a section, in its class line.
`emo_ray.config.decides` makes keys and tables from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Owner = Literal["caller", "checkpoint"]


@dataclass(frozen=True)
class Condition:
    """When a setting decides something: in words, and as a test of the whole config."""

    words: str
    holds: Callable[[Any], bool]  # of a Config, a class that can only be written after its sections


@dataclass(frozen=True)
class Decision:
    """A setting decides an artefact.

    `by` says how the artefact's key tells so. "value": the setting's value is in the key (see `settings_of`).
    "content": the stage puts in what the setting leads to, such as the digest of the file that a path names, a size
    that is worked out, or the splits that were cut; the same content under another name is then the same artefact.
    """

    artefact: str
    by: Literal["value", "content"]
    only_if: Condition | None = None


Decisions = tuple[Decision, ...]
NOTHING: Decisions = ()  # where and how fast a job runs, what it prints: no artefact is another for it


@dataclass(frozen=True)
class Declaration:
    """What is declared of a setting beside its type, default, bounds and description."""

    decides: Decisions
    owner: Owner
    path: bool  # a path, or a name where no such path exists; or several
    in_recipe: bool
    normalised: Callable[[Any], Any]  # its value -> the value that decides

    def decides_by_value(self, artefact: str) -> bool:
        """Whether the setting's value is in the artefact's key, whatever the conditions are."""
        return any(decision.artefact == artefact and decision.by == "value" for decision in self.decides)


@dataclass(frozen=True)
class _Stated:
    """The arguments of `setting`; None where the section's apply."""

    decides: Decisions | None
    owner: Owner | None
    path: bool
    in_recipe: bool
    normalised: Callable[[Any], Any]


def by_value(*artefacts: str, only_if: Condition | None = None) -> Decisions:
    """The setting decides these artefacts, and its value is part of their keys."""
    return tuple(Decision(name, "value", only_if) for name in artefacts)


def by_content(*artefacts: str, only_if: Condition | None = None) -> Decisions:
    """The setting decides these artefacts, and what it leads to, not its value, is part of their keys."""
    return tuple(Decision(name, "content", only_if) for name in artefacts)


def setting(
    default: Any,
    description: str,
    *,
    decides: Decisions | None = None,
    owner: Owner | None = None,
    path: bool = False,
    in_recipe: bool = True,
    normalised: Callable[[Any], Any] = lambda value: value,
    **bounds: Any,
) -> Any:
    """A pydantic field that keeps its declaration in its metadata; `bounds` are pydantic's, such as `ge=0`.

    `decides` and `owner` default to those of the section. `owner="caller"`: a model that is given as `checkpoint` does
    not bring this setting along. `path=True`: `absolute_paths` makes it absolute. `in_recipe=False`: `recipe` leaves it
    out. `normalised` maps values that give the same result to one value.
    """
    field = Field(default, description=description, **bounds)
    field.metadata.append(_Stated(decides, owner, path, in_recipe, normalised))
    return field


class Section(BaseModel):
    """A frozen part of the tree; unknown keys are errors.

    A subclass may say for all of its settings what they decide and whom they belong to:
    `class Fusion(Optimisation, decides=by_value("fusion"))`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _decides: ClassVar[Decisions | None] = None
    _owner: ClassVar[Owner] = "checkpoint"
    _in_recipe: ClassVar[bool] = True

    def __init_subclass__(
        cls, decides: Decisions | None = None, owner: Owner | None = None, in_recipe: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls._decides = cls._decides if decides is None else decides
        cls._owner = owner or cls._owner
        cls._in_recipe = cls._in_recipe if in_recipe is None else in_recipe

    @classmethod
    def sections(cls) -> dict[str, type["Section"]]:
        """The sections in this one, by name."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    @classmethod
    @cache
    def declaration(cls, name: str) -> Declaration:
        """What is declared of a setting of this section, by itself or by the section.

        Raises TypeError for a plain field, and where neither says what the setting decides.
        """
        stated = next((part for part in cls.model_fields[name].metadata if isinstance(part, _Stated)), None)
        if stated is None:
            raise TypeError(f"{cls.__name__}.{name}: found a plain field, expected setting(default, description, ...)")
        decides = cls._decides if stated.decides is None else stated.decides
        if decides is None:
            raise TypeError(f"{cls.__name__}.{name}: found no `decides`, expected artefacts or NOTHING")
        in_recipe = stated.in_recipe and cls._in_recipe
        return Declaration(decides, stated.owner or cls._owner, stated.path, in_recipe, stated.normalised)

    def deciding(self, artefact: str) -> dict[str, Any]:
        """The JSON-able values of this section's settings that decide an artefact by value, by name.

        Conditions on other settings are not looked at (`settings_of` looks at them), and sections in this one neither.
        """
        values = self.model_dump(mode="json", include=self._deciding(artefact))
        return {name: self.declaration(name).normalised(value) for name, value in values.items()}

    @classmethod
    @cache
    def _deciding(cls, artefact: str) -> set[str]:
        names = cls.model_fields.keys() - cls.sections().keys()
        return {name for name in names if cls.declaration(name).decides_by_value(artefact)}
