"""Stand-ins for the choices of nodes of the scene."""
# ruff: noqa: N801

from typing import ClassVar

import qt
import slicer
import vtk
from PySide6.QtCore import Property, QObject, Signal

from .observing import Observers, calling
from .properties import stand_in, stored
from .qmrml_base import qMRMLWidget


@stand_in
class SortFilterProxyModel(QObject):
    """What a combo box of nodes leaves out."""

    hiddenNodeIDs = stored("QStringList", (), applied="_filter")

    def _filter(self):
        self.parent()._list_nodes()


@stand_in
class qMRMLNodeComboBox(qMRMLWidget):
    """A combo box of the scene's nodes of some types, kept up to date."""

    CPP_SIGNALS: ClassVar[dict] = {
        "currentNodeChanged(vtkMRMLNode*)": None,
        "currentNodeChanged(bool)": bool,
        "currentNodeIDChanged(QString)": None,
        "nodeActivated(vtkMRMLNode*)": None,
        "nodeAdded(vtkMRMLNode*)": None,
        "nodeAddedByUser(vtkMRMLNode*)": None,
        "nodeAboutToBeRemoved(vtkMRMLNode*)": None,
        "nodeAboutToBeEdited(vtkMRMLNode*)": None,
    }
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    currentNodeRenamed = Signal(str)

    nodeTypes = stored("QStringList", (), applied="_list_nodes")
    hideChildNodeTypes = stored("QStringList", (), applied="_list_nodes")
    showHidden = stored(bool, False, applied="_list_nodes")
    showChildNodeTypes = stored(bool, True, applied="_list_nodes")
    noneEnabled = stored(bool, False, applied="_list_nodes")
    noneDisplay = stored(str, "None", applied="_list_nodes")
    addEnabled = stored(bool, True, applied="_list_nodes")
    removeEnabled = stored(bool, True, applied="_list_nodes")
    editEnabled = stored(bool, False, applied="_list_nodes")
    renameEnabled = stored(bool, False, applied="_list_nodes")
    selectNodeUponCreation = stored(bool, True)
    interactionNodeSingletonTag = stored(str, "")
    sizeAdjustPolicy = stored(int, 0)

    def __init__(self, parent=None):
        qMRMLWidget.__init__(self, parent)
        self._box = qt.QComboBox()
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._ids, self._current = [], ""
        self._filter = SortFilterProxyModel(self)
        self._attributes, self._labels, self._base_names = {}, {}, {}
        self._scene_observers, self._node_observers = Observers(self), {}
        self._box.currentIndexChanged.connect(calling(self, "_choose"))
        self._box.activated.connect(calling(self, "_activate"))

    def sortFilterProxyModel(self):
        """What is left out."""
        return self._filter

    # --- what is listed

    def _use_scene(self):
        event = slicer.vtkMRMLScene
        self._scene_observers.observe(
            self._scene,
            {
                event.NodeAddedEvent: "_node_came",
                event.NodeAboutToBeRemovedEvent: "_node_goes",
                event.NodeRemovedEvent: "_list_nodes",
                event.EndBatchProcessEvent: "_list_nodes",
            },
        )
        self._list_nodes()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_came(self, _scene, _event, node):
        self._list_nodes()
        if node.GetID() in self._ids:
            self.nodeAdded.emit(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_goes(self, _scene, _event, node):
        if node.GetID() in self._ids:
            self.nodeAboutToBeRemoved.emit(node)

    def _is_of_type(self, node):
        if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
            return False
        if self.showChildNodeTypes:
            return any(node.IsA(kind) for kind in self.nodeTypes)
        return node.GetClassName() in self.nodeTypes

    def _is_listed(self, node):
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if node.GetID() in self._filter.hiddenNodeIDs:
            return False
        return all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
            for (kind, name), value in self._attributes.items()
            if node.IsA(kind)
        )

    def _list_nodes(self, *_):
        if self._scene is not None and self._scene.IsBatchProcessing():
            return  # listed at its end
        nodes = []
        if self._scene is not None:
            every = (self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes()))
            nodes = [node for node in every if self._is_of_type(node)]
        self._observe(nodes)
        nodes = [node for node in nodes if self._is_listed(node)]
        was = self._box.blockSignals(True)
        self._box.clear()
        former_ids = self._ids
        self._ids = [""] if self.noneEnabled else []
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        for node in nodes:
            self._ids.append(node.GetID())
            self._box.addItem(node.GetName() or "")
        self._add_actions()
        current = self._current_after(former_ids)
        self._show(current)
        self._box.blockSignals(was)
        self._set_current(current)

    def _current_after(self, former_ids):
        """The ID of the current node now that others are listed, by the ways of Qt's combo box."""
        if self._current in self._ids:
            return self._current
        if self._current:  # gone: what took its place is current, else the last node
            index = former_ids.index(self._current) if self._current in former_ids else 0
            return self._ids[min(index, len(self._ids) - 1)] if self._ids else ""
        # Qt chooses the first item of a list that was empty; entries that act
        # are items too, and where there are any nothing is chosen by itself.
        was_empty = not former_ids and not self._has_actions()
        return self._ids[0] if was_empty and self._ids else ""

    def _observe(self, nodes):
        wanted = {node.GetID(): node for node in nodes}
        for gone in set(self._node_observers) - set(wanted):
            self._node_observers.pop(gone).observe(None, {})
        for node_id, node in wanted.items():
            if node_id not in self._node_observers:
                observers = self._node_observers[node_id] = Observers(self)
                observers.observe(node, {vtk.vtkCommand.ModifiedEvent: "_node_changed"})

    def _node_changed(self, node, _event):
        index = self._ids.index(node.GetID()) if node.GetID() in self._ids else -1
        if (index >= 0) != self._is_listed(node):
            self._list_nodes()
        elif index >= 0 and self._box.itemText(index) != (node.GetName() or ""):
            self._box.setItemText(index, node.GetName() or "")
            if node.GetID() == self._current:
                self.currentNodeRenamed.emit(node.GetName())
                self.currentNodeChanged.emit(node)  # the combo box tells any new text

    # --- what is chosen

    def _show(self, node_id):
        self._box.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)

    def _set_current(self, node_id):
        if node_id == self._current:
            return
        self._current = node_id
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(node_id)

    def _choose(self, index):
        if 0 <= index < len(self._ids):
            self._set_current(self._ids[index])

    def currentNode(self):
        """The node chosen, or None."""
        if self._scene is None or not self._current:
            return None
        return self._scene.GetNodeByID(self._current)

    def setCurrentNode(self, node):
        """Choose the node, given as such or by its ID; one that is not listed chooses none."""
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    def setCurrentNodeID(self, node_id):
        """Choose the node of that ID."""
        node_id = node_id if node_id in self._ids else ""
        was = self._box.blockSignals(True)
        self._show(node_id)
        self._box.blockSignals(was)
        self._set_current(node_id)

    def setCurrentNodeIndex(self, index):
        """Choose the node at this place, counting no entry for none."""
        self.setCurrentNode(self.nodeFromIndex(index))

    currentNodeID = Property(
        str,
        lambda self: self._current,
        lambda self, node_id: self.setCurrentNodeID(node_id),
    )

    def nodeCount(self):
        """Number of nodes in the list."""
        return sum(bool(node_id) for node_id in self._ids)

    def nodeFromIndex(self, index):
        """The node at this place, counting no entry for none."""
        ids = [node_id for node_id in self._ids if node_id]
        return self._scene.GetNodeByID(ids[index]) if 0 <= index < len(ids) else None

    # --- filters and labels

    def addAttribute(self, node_type, name, value=None):
        """List nodes of the type only if they have the attribute, with this value if one is given.

        The value is kept as text: 1 stands for "1".
        """
        self._attributes[node_type, name] = None if value is None else str(value)
        self._list_nodes()

    def removeAttribute(self, node_type, name):
        """List nodes without regard to the attribute."""
        self._attributes.pop((node_type, name), None)
        self._list_nodes()

    def setNodeTypeLabel(self, label, node_type):
        """Set the label of the node type in the entries that create and rename nodes."""
        self._labels[node_type] = label
        self._list_nodes()

    def nodeTypeLabel(self, node_type):
        """Return the label of the node type."""
        return self._labels.get(node_type, "")

    def _get_base_name(self):
        return self._base_names.get("", "")

    baseName = Property(str, _get_base_name, lambda self, name: self.setBaseName(name))

    def setBaseName(self, name, node_type=""):
        """Base name of new nodes."""
        self._base_names[node_type] = name

    # --- entries that act

    def _has_actions(self):
        return self.addEnabled or self.removeEnabled or self.editEnabled or self.renameEnabled

    def _label(self, node_type):
        if label := self._labels.get(node_type):
            return label
        node = self._scene.CreateNodeByClass(node_type)
        if node is None:
            return node_type
        node.UnRegister(None)
        return node.GetTypeDisplayName()

    def _add_actions(self):
        self._actions = []
        if self._scene is None or not self._has_actions():
            return
        label = self._label(self.nodeTypes[0]) if len(self.nodeTypes) == 1 else "Node"
        if self.renameEnabled:
            self._actions.append((f"Rename current {label}", "renameCurrentNode", ()))
        if self.editEnabled:
            self._actions.append((f"Edit current {label}", "editCurrentNode", ()))
        if self.addEnabled:
            for node_type in self.nodeTypes:
                text = f"Create new {self._label(node_type)}"
                self._actions.append((text, "_add_by_user", (node_type,)))
        if self.removeEnabled:
            self._actions.append((f"Delete current {label}", "removeCurrentNode", ()))
        self._box.insertSeparator(len(self._ids))
        for text, *_ in self._actions:
            self._box.addItem(text)

    def _activate(self, index):
        if index < len(self._ids):
            self.nodeActivated.emit(self.currentNode())
            return
        self._show(self._current)
        _, method, arguments = self._actions[index - len(self._ids) - 1]  # after the separator
        getattr(self, method)(*arguments)

    def _add_by_user(self, node_type):
        self.nodeAddedByUser.emit(self.addNode(node_type))

    def addNode(self, node_type=None):
        """Add a node to the scene, and choose it if new nodes are."""
        node_type = node_type or self.nodeTypes[0]
        name = self._base_names.get(node_type) or self._base_names.get("")
        node = self._scene.CreateNodeByClass(node_type)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(name or self._label(node_type)))
        for (kind, attribute), value in self._attributes.items():
            if node.IsA(kind):
                node.SetAttribute(attribute, value or "")
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        return node

    def removeCurrentNode(self):
        """Remove the chosen node from the scene."""
        if node := self.currentNode():
            self._scene.RemoveNode(node)

    def editCurrentNode(self):
        """Request the editing of the current node."""
        self.nodeAboutToBeEdited.emit(self.currentNode())

    def renameCurrentNode(self):
        """Real Slicer asks for the name; a test renames the node."""
        raise RuntimeError("a dialog would wait for ever: call SetName() of the node")


@stand_in
class qMRMLColorTableComboBox(qMRMLNodeComboBox):
    """A choice of color maps."""

    def __init__(self, parent=None):
        qMRMLNodeComboBox.__init__(self, parent)
        self.nodeTypes = ("vtkMRMLColorNode",)
        self.addEnabled = self.removeEnabled = False
        self.showHidden = True


@stand_in
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A combo box in which several nodes can be checked."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        qMRMLNodeComboBox.__init__(self, parent)
        self._checked = set()

    def _nodes(self):
        return [self.nodeFromIndex(i) for i in range(self.nodeCount())]

    def checkedNodes(self):
        """The nodes that are checked."""
        return tuple(node for node in self._nodes() if node.GetID() in self._checked)

    def uncheckedNodes(self):
        """The nodes that are not."""
        return tuple(node for node in self._nodes() if node.GetID() not in self._checked)

    def allChecked(self):
        """Return True if every node is checked."""
        return not self.uncheckedNodes()

    def noneChecked(self):
        """Return True if no node is checked."""
        return not self.checkedNodes()

    def checkState(self, node):
        """Checked or not."""
        return qt.Qt.Checked if node.GetID() in self._checked else qt.Qt.Unchecked

    def setCheckState(self, node, state):
        """Check the node, or not."""
        before = self.checkedNodes()
        if state == qt.Qt.Checked:
            self._checked.add(node.GetID())
        else:
            self._checked.discard(node.GetID())
        if self.checkedNodes() != before:
            self.checkedNodesChanged.emit()

    def check(self, node):
        """Check the node."""
        self.setCheckState(node, qt.Qt.Checked)

    def uncheck(self, node):
        """Do not check the node."""
        self.setCheckState(node, qt.Qt.Unchecked)
