"""Storage of values by type in a parameter node, in Slicer's format."""

import enum
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import slicer

from .annotations import IsInstance, NotNone, Validator


class Storage(NamedTuple):
    """A type: its default, its conversion from and to text, and its constraints."""

    default: Callable[[], Any]
    read: Callable[[Any, str], Any]
    write: Callable[[Any, str, Any], None]
    validators: tuple[Validator, ...]


def _as_text(
    default: Callable[[], Any],
    to_text: Callable[[Any], str],
    from_text: Callable[[str], Any],
    classes: Any,
) -> Storage:
    return Storage(
        default=default,
        read=lambda node, name: from_text(node.GetParameter(name)),
        write=lambda node, name, value: node.SetParameter(name, to_text(value)),
        validators=(NotNone(), IsInstance(classes)),
    )


def _write_node(node: Any, name: str, value: Any) -> None:
    # The empty parameter tells that None was set from that nothing was.
    node.SetParameter(name, "")
    node.SetNodeReferenceID(name, None if value is None else value.GetID())


def _node(classes: tuple[type, ...]) -> Storage:
    return Storage(
        default=lambda: None,
        read=lambda node, name: node.GetNodeReference(name),
        write=_write_node,
        validators=(IsInstance(classes),),
    )


def node_classes(kind: Any) -> tuple[type, ...]:
    """The node classes that the type names, alone or joined by `|`; none if it is another."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not types.NoneType]
    else:
        parts = [kind]
    if all(isinstance(part, type) and issubclass(part, slicer.vtkMRMLNode) for part in parts):
        return tuple(parts)
    return ()


def storage_of(kind: Any) -> Storage:
    """Return the storage of the type."""
    if classes := node_classes(kind):
        return _node(classes)
    if kind is bool:
        return _as_text(bool, str, lambda text: text == "True", bool)
    if kind is int:
        return _as_text(int, str, int, int)
    if kind is float:
        return _as_text(float, str, float, (int, float))
    if kind is str:
        return _as_text(str, str, str, str)
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        return _as_text(kind, str, kind, kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _as_text(lambda: next(iter(kind)), lambda value: value.name, kind.__getitem__, kind)
    raise TypeError(
        f"The harness keeps no {kind} in parameter nodes: bool, int, float, str, Path, enums and "
        "nodes it does"
    )
