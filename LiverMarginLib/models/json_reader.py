"""Typed reading of JSON objects from outside: every value is asked for by name and kind, and none is left over."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

_Enum = TypeVar("_Enum", bound=StrEnum)


class JsonProblem(ValueError):
    """Says in a clause, fit for the middle of a sentence, what is wrong."""


class JsonObject:
    """One JSON object whose keys are taken one after the other.

    Parameters
    ----------
    values : object
        As `json.loads` gives it.
    where : str
        Name of the object in messages.

    Raises
    ------
    JsonProblem
        Here if `values` is not an object; in every method if the key is missing or of another kind.
    """

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise JsonProblem(f"{where} is not a JSON object")
        self._left: dict[str, Any] = dict(values)
        self._where = where

    def _take(self, key: str) -> Any:
        try:
            return self._left.pop(key)
        except KeyError:
            raise JsonProblem(f"{self._where} has no {key!r}") from None

    def null(self, key: str) -> bool:
        """Whether the value is null, which is then taken."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return True
        return False

    def has(self, key: str) -> bool:
        """Whether an optional entry is there and not taken yet."""
        return key in self._left

    def text(self, key: str) -> str:
        """A string."""
        value = self._take(key)
        if not isinstance(value, str):
            raise JsonProblem(f"{key!r} of {self._where} is not a text")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise JsonProblem(f"{key!r} of {self._where} is neither true nor false")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        return _number(self._take(key), f"{key!r} of {self._where}")

    def integer(self, key: str) -> int:
        """A whole number."""
        return _integer(self._take(key), f"{key!r} of {self._where}")

    def choice(self, key: str, kind: type[_Enum]) -> _Enum:
        """One of the values of an enumeration."""
        value = self._take(key)
        try:
            return kind(value)
        except ValueError:
            raise JsonProblem(f"{key!r} of {self._where} is not one of {', '.join(kind)}") from None

    def array(self, key: str) -> list[Any]:
        """A list of anything."""
        value = self._take(key)
        if not isinstance(value, list):
            raise JsonProblem(f"{key!r} of {self._where} is not a list")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(_integer(value, f"an entry of {key!r}") for value in self.array(key))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(_number(value, f"an entry of {key!r}") for value in self.array(key))

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object of anything."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise JsonProblem(f"{key!r} of {self._where} is not a JSON object")
        return value

    def object(self, key: str) -> JsonObject:
        """An object that is read in its turn."""
        return JsonObject(self._take(key), f"{key!r}")

    def finish(self) -> None:
        """Refuse keys that nobody asked for: a misspelt key would otherwise be a silent default."""
        if self._left:
            raise JsonProblem(f"{self._where} has an unknown entry {min(self._left)!r}")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise JsonProblem(f"{what} is not a finite number")
    return float(value)


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise JsonProblem(f"{what} is not a whole number")
    return value
