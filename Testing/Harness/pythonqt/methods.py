"""Calls of Qt methods with PythonQt's errors."""

from collections.abc import Callable
from types import BuiltinMethodType
from typing import Any

_DELETED = "already deleted"


def qt_value(value: Any) -> Any:
    """Convert a returned value as PythonQt does: lists become tuples."""
    return tuple(value) if type(value) is list else value


def is_deleted_error(error: RuntimeError) -> bool:
    """Return True if the error means that the C++ object is deleted."""
    return _DELETED in str(error)


class QtMethod:
    """A method of a Qt object: positional arguments only, and a ValueError for wrong ones."""

    __slots__ = ("__name__", "__self__", "_function")

    def __init__(self, owner: object, name: str, function: BuiltinMethodType):
        self.__self__ = owner
        self.__name__ = name
        self._function: Callable = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method with PythonQt's rules."""
        if kwargs:
            raise ValueError(f"{self.__name__}(): called slot does not support kwargs: {[*kwargs]}")
        try:
            return qt_value(self._function(*args))
        except TypeError as error:
            if error.__traceback__.tb_next is not None:
                raise  # from Python code that the method ran
            raise ValueError(
                f"Called {self.__name__}(...) with wrong arguments: {args!r}: {error}"
            ) from error
        except RuntimeError as error:
            if not is_deleted_error(error):
                raise
            kind = type(self.__self__).__name__
            raise ValueError(
                f"Trying to call '{self.__name__}' on a destroyed {kind} object"
            ) from error

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, QtMethod)
            and self.__self__ is other.__self__
            and self.__name__ == other.__name__
        )

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__name__))

    def __repr__(self) -> str:
        return f"<Qt method {type(self.__self__).__name__}.{self.__name__}>"
