"""What ``recsys tune`` may change, and between which bounds.

A setting is searched when ``TrainConfig`` has a field of its name: a field that a
release adds needs a line here and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from recsys._learning_config import OBJECTIVES
from recsys.config import TrainConfig
from recsys.errors import ConfigError

Value = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Dimension:
    """One setting of the search space.

    Attributes:
        name: Field of ``TrainConfig``.
        low: Least value of a number.
        high: Greatest value.
        log: Drawn by its logarithm.
        choices: Values to choose from, instead of a range; numbers ascend.
        needs: "content" only where item features are declared, else "".
        always: Searched unless somebody asks otherwise.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    needs: Literal["", "content"] = ""
    always: bool = True

    @property
    def ordered(self) -> bool:
        """Whether neighbouring choices are alike."""
        return all(type(choice) in (int, float) for choice in self.choices)

    def including(self, value: Any) -> Dimension:
        """Return the dimension, widened to have a value."""
        if not self.choices:
            return replace(self, low=min(self.low, value), high=max(self.high, value))
        if value in self.choices:
            return self
        choices = (*self.choices, value)
        if replace(self, choices=choices).ordered:
            choices = tuple(sorted(choices))
        return replace(self, choices=choices)


SPACE = (
    Dimension("tau", 0.05, 0.5, log=True),
    Dimension("dropout", 0.1, 0.9),
    Dimension("beta", 0.0, 1.0),
    Dimension("lr", 1e-3, 3e-2, log=True),
    Dimension("batch", choices=(128, 256, 512, 1024)),
    Dimension("negatives", choices=(1024, 2048, 4096, 8192, 16384)),
    Dimension("id_dropout", 0.0, 0.5, needs="content"),
    # Others on request: these change what is learned, and want a longer search.
    Dimension("objective", choices=OBJECTIVES, always=False),
    Dimension("recent_beta", 0.0, 1.0, always=False),
    # Another dim is another size of every table and index: only on request.
    Dimension("dim", choices=(32, 64, 96, 128, 256), always=False),
)


def names() -> list[str]:
    """Return the settings that can be searched."""
    known = {field.name for field in fields(TrainConfig)}
    return [dimension.name for dimension in SPACE if dimension.name in known]


def check_names(only: Sequence[str]) -> None:
    """Refuse names of settings that cannot be searched.

    Raises:
        ConfigError: There are some.
    """
    unknown = [name for name in only if name not in names()]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} cannot be searched",
            hint=f"Choose from {', '.join(names())}.",
        )


def space(
    current: Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    content: bool,
    largest: Mapping[str, int],
) -> list[Dimension]:
    """Return what one study searches.

    Args:
        current: Today's value of each setting; each dimension is widened to have it.
        only: Names to search; empty means all that are always searched.
        content: Whether item features are declared.
        largest: Setting -> value above which the data make no difference.

    Raises:
        ConfigError: A name cannot be searched, or nothing is left.
    """
    check_names(only)
    found = [
        _capped(dimension, largest.get(dimension.name)).including(
            current[dimension.name]
        )
        for dimension in SPACE
        if dimension.name in current
        and (dimension.name in only if only else dimension.always)
        and (content or dimension.needs != "content")
    ]
    found = [d for d in found if len(d.choices) != 1]
    if not found:
        raise ConfigError(
            "there is nothing to search",
            hint="id_dropout needs item features, and batch and negatives larger data.",
        )
    return found


def _capped(dimension: Dimension, largest: int | None) -> Dimension:
    """Leave out choices that mean the same on these data."""
    if largest is None or not dimension.choices:
        return dimension
    choices = [c for c in dimension.choices if not isinstance(c, str) and c < largest]
    rest = [c for c in dimension.choices if not isinstance(c, str) and c >= largest]
    return replace(dimension, choices=(*choices, *rest[:1]))


def to_json(dimensions: Iterable[Dimension]) -> list[dict[str, Any]]:
    """Return the space as JSON has it, to be kept with a study."""
    return [asdict(dimension) for dimension in dimensions]


def from_json(data: Iterable[Mapping[str, Any]]) -> list[Dimension]:
    """Read what ``to_json`` made."""
    return [
        Dimension(**{**part, "choices": tuple(part["choices"])})  # pyright: ignore[reportArgumentType] # JSON
        for part in data
    ]
