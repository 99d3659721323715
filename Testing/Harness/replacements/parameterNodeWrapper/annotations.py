"""Annotations of a parameter in `Annotated[...]`: its default and its constraints."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class Default:
    """The value a parameter has at first, or what makes it."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None):
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        """The value."""
        return self._generator() if self._generator else self._value


@dataclass
class Decimals:
    """Number of decimals that the widget shows."""

    value: int


@dataclass
class SingleStep:
    """Step of the widget."""

    value: float


class Validator:
    """A constraint; `validate` raises for a value that violates it."""

    def validate(self, value: Any) -> None:
        """Raise ValueError if the value is not allowed."""
        raise NotImplementedError


class NotNone(Validator):
    """There must be a value."""

    def validate(self, value: Any) -> None:
        """Raise ValueError for None."""
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """The value, if there is one, must be of the type."""

    def __init__(self, classtype: Any):
        self.classtype = classtype

    def validate(self, value: Any) -> None:
        """Raise TypeError for another type."""
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is {value!r}")


class WithinRange(Validator):
    """The value must lie between the limits or on them."""

    def __init__(self, minimum: float, maximum: float):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        """Raise ValueError for a value outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"Value must be within range [{self.minimum}, {self.maximum}], is {value}"
            )


class Minimum(Validator):
    """The value must not be smaller."""

    def __init__(self, minimum: float):
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        """Raise ValueError for a smaller value."""
        if value < self.minimum:
            raise ValueError(f"Value must not be less than {self.minimum}, is {value}")


class Maximum(Validator):
    """The value must not be greater."""

    def __init__(self, maximum: float):
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        """Raise ValueError for a greater value."""
        if value > self.maximum:
            raise ValueError(f"Value must not be greater than {self.maximum}, is {value}")


class Choice(Validator):
    """The value must be one of these."""

    def __init__(self, choices: Iterable):
        self.choices = choices

    def validate(self, value: Any) -> None:
        """Raise ValueError for any other value."""
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of: {self.choices}")


class Exclude(Validator):
    """The value must be none of these."""

    def __init__(self, excludedValues: Iterable):
        self.excludedValues = excludedValues

    def validate(self, value: Any) -> None:
        """Raise ValueError for one of the values."""
        if value in self.excludedValues:
            raise ValueError(f"Value is {value}, but must be none of: {self.excludedValues}")
