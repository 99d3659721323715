"""The decorator that turns a class of annotated names into a typed view of a parameter node."""

import typing
from dataclasses import dataclass
from typing import Annotated, Any

import slicer
import vtk

from .annotations import Default, Validator
from .binding import Binding, bind
from .storage import Storage, storage_of

PROPERTY_NAME = "SlicerParameterName"


@dataclass(frozen=True)
class _Parameter:
    name: str
    kind: Any
    annotations: tuple
    storage: Storage
    default: Default

    @property
    def annotated(self) -> Any:
        return Annotated[self.kind, *self.annotations] if self.annotations else self.kind

    def read(self, node: Any) -> Any:
        if not node.HasParameter(self.name):
            self.write(node, self.default.value)
        return self.storage.read(node, self.name)

    def write(self, node: Any, value: Any) -> None:
        own = (item for item in self.annotations if isinstance(item, Validator))
        for validator in (*self.storage.validators, *own):
            validator.validate(value)
        with slicer.util.NodeModify(node):
            self.storage.write(node, self.name, value)


def _parameter(cls: type, name: str, hint: Any) -> _Parameter:
    # The stub makes every type an annotated one.
    kind, *annotations, _ = typing.get_args(Annotated[hint, "stub"])
    storage = storage_of(kind)
    default = next((item for item in annotations if isinstance(item, Default)), None)
    if hasattr(cls, name):
        default = Default(getattr(cls, name))
    elif default is None:
        default = Default(generator=storage.default)
    return _Parameter(name, kind, tuple(annotations), storage, default)


class _Wrapper:
    """Methods of a decorated class."""

    allParameters: dict[str, _Parameter] = {}  # noqa: RUF012
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any):
        self.parameterNode = parameterNode
        self._bindings: dict[int, tuple[dict[str, Binding], int]] = {}
        self._next_tag = 0
        self._showing = False
        for parameter in self.allParameters.values():
            if not parameterNode.HasParameter(parameter.name):
                parameter.write(parameterNode, parameter.default.value)

    @classmethod
    def _parameter(cls, name: str) -> _Parameter:
        if name not in cls.allParameters:
            known = ", ".join(cls.allParameters)
            raise ValueError(f"Cannot find a param with the given name: {name}; there are {known}")
        return cls.allParameters[name]

    def getValue(self, name: str) -> Any:
        """The parameter's value."""
        return self._parameter(name).read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        """Set the parameter; a value that is not allowed raises."""
        self._parameter(name).write(self.parameterNode, value)

    def default(self, name: str) -> Default:
        """The parameter's default."""
        return self._parameter(name).default

    @classmethod
    def dataType(cls, name: str) -> Any:
        """The parameter's type, with its annotations."""
        return cls._parameter(name).annotated

    def isCached(self, name: str) -> bool:
        """True for all types of the harness."""
        return bool(self._parameter(name))

    def connectGui(self, gui: Any) -> int:
        """Bind every widget that names its parameter; the tag is for `disconnectGui`."""
        import qt

        if getattr(gui, "isWidgetType", lambda: False)():
            widgets = gui.findChildren(qt.QWidget)
        else:
            widgets = gui.__dict__.values()
        named = {widget.property(PROPERTY_NAME): widget for widget in widgets}
        return self.connectParametersToGui({n: widget for n, widget in named.items() if n})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind each parameter to its widget; the tag is for `disconnectGui`."""
        parameters = {name: self._parameter(name) for name in mapping}
        bindings = {
            name: bind(widget, parameters[name].kind, parameters[name].annotations)
            for name, widget in mapping.items()
        }
        for name, binding in bindings.items():
            binding.write(self.getValue(name))
            binding.connect(self._take(name, binding))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, self._show)
        tag = self._next_tag
        self._next_tag += 1
        self._bindings[tag] = (bindings, observer)
        return tag

    def disconnectGui(self, guiTag: int) -> None:
        """Undo a connection; an unknown tag does nothing."""
        if guiTag in self._bindings:
            bindings, observer = self._bindings.pop(guiTag)
            for binding in bindings.values():
                binding.disconnect()
            self.RemoveObserver(observer)

    def _take(self, name: str, binding: Binding) -> Any:
        def take() -> None:
            if not self._showing:
                self.setValue(name, binding.read())

        return take

    def _show(self, *_: Any) -> None:
        if self._showing:
            return
        self._showing = True
        try:
            with slicer.util.NodeModify(self):
                for bindings, _observer in list(self._bindings.values()):
                    for name, binding in bindings.items():
                        binding.write(self.getValue(name))
        finally:
            self._showing = False

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the parameter node."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        """End an observation."""
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> int:
        """Start a group of changes."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> int:
        """End a group of changes."""
        return self.parameterNode.EndModify(wasModified)

    def Modified(self) -> None:
        """Notify the observers."""
        self.parameterNode.Modified()


def _add_parameters(cls: type) -> type:
    if "__init__" in vars(cls):
        raise ValueError(f"{cls.__name__}.__init__ would be replaced by that of the wrapper")
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _parameter(cls, name, hint) for name, hint in hints.items()}
    for name in [*parameters, *(name for name in vars(cls) if not name.startswith("__"))]:
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    for name, value in vars(_Wrapper).items():
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"):
            setattr(cls, name, value)
    cls.allParameters = parameters
    for name, parameter in parameters.items():
        setattr(cls, name, _property(parameter))
    return cls


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode),
        lambda self, value: parameter.write(self.parameterNode, value),
    )


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator, with or without parentheses."""
    return _add_parameters if classtype is None else _add_parameters(classtype)


def isParameterNodeWrapper(classOrObj: Any) -> bool:
    """Return True if the class, or the object's class, was decorated."""
    return getattr(classOrObj, "_is_parameter_node_wrapper", False)
