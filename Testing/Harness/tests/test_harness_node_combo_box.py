"""The choice of a node follows the scene as Slicer's does."""

import gc

import pytest
import qt
import shiboken6
from Harness import run_events


@pytest.fixture
def box(scene):
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ("vtkMRMLScalarVolumeNode",)
    box.setMRMLScene(scene)
    return box


def _add(scene, name: str = "ct", kind: str = "vtkMRMLScalarVolumeNode"):
    return scene.AddNewNodeByClass(kind, name)


def _texts(box) -> list[str]:
    combo = box.findChild(qt.QComboBox)
    return [combo.itemText(i) for i in range(combo.count) if combo.itemText(i)]


def test_with_entries_that_act_nothing_is_chosen_by_itself(box, scene) -> None:
    _add(scene)
    assert box.currentNode() is None


def test_without_them_the_first_node_of_an_empty_list_is_chosen(box, scene) -> None:
    box.addEnabled = box.removeEnabled = False
    ct = _add(scene)
    assert box.currentNode() is ct
    _add(scene, "mr")
    assert box.currentNode() is ct
    assert box.nodeCount() == 2


def test_with_a_choice_of_none_nothing_is_chosen_by_itself(box, scene) -> None:
    box.addEnabled = box.removeEnabled = False
    box.noneEnabled = True
    _add(scene)
    assert box.currentNode() is None
    assert box.currentNodeID == ""


def test_the_signal_comes_with_the_node_and_with_its_validity(box, scene) -> None:
    box.noneEnabled = True
    nodes, valid, ids = [], [], []
    assert box.connect("currentNodeChanged(vtkMRMLNode*)", nodes.append)
    assert box.connect("currentNodeChanged(bool)", valid.append)
    box.currentNodeIDChanged.connect(ids.append)
    box.currentNodeChanged.connect(nodes.append)
    ct = _add(scene)
    box.setCurrentNode(ct)
    box.setCurrentNode(ct)
    assert nodes == [ct, ct]
    box.setCurrentNodeID("")
    assert valid == [True, False]
    assert ids == [ct.GetID(), ""]
    assert nodes[2:] == [None, None]


def test_a_removed_node_leaves_another_or_none(box, scene) -> None:
    ct, mr = _add(scene), _add(scene, "mr")
    box.setCurrentNode(ct)
    gone = []
    box.nodeAboutToBeRemoved.connect(lambda node: gone.append(node.GetName()))
    scene.RemoveNode(ct)
    assert box.currentNode() is mr
    box.noneEnabled = True
    scene.RemoveNode(mr)
    assert box.currentNode() is None
    assert gone == ["ct", "mr"]


def test_closing_the_scene_leaves_none(box, scene) -> None:
    box.setCurrentNode(_add(scene))
    scene.Clear(False)
    assert box.currentNode() is None
    assert box.nodeCount() == 0


def test_a_renamed_node_is_listed_by_its_new_name(box, scene) -> None:
    names = []
    box.currentNodeRenamed.connect(names.append)
    ct = _add(scene)
    box.setCurrentNode(ct)
    ct.SetName("chest")
    assert names == ["chest"]
    assert _texts(box)[0] == "chest"


def test_derived_types_are_listed_unless_told_otherwise(box, scene) -> None:
    _add(scene, "labels", "vtkMRMLLabelMapVolumeNode")
    assert box.nodeCount() == 1
    box.showChildNodeTypes = False
    assert box.nodeCount() == 0
    box.showChildNodeTypes = True
    box.hideChildNodeTypes = ("vtkMRMLLabelMapVolumeNode",)
    assert box.nodeCount() == 0


def test_hidden_nodes_are_listed_on_demand_only(box, scene) -> None:
    ct = _add(scene)
    ct.SetHideFromEditors(True)
    assert box.nodeCount() == 0
    box.showHidden = True
    assert box.nodeCount() == 1


def test_attributes_filter(box, scene) -> None:
    ct, mr = _add(scene), _add(scene, "mr")
    box.addAttribute("vtkMRMLScalarVolumeNode", "Role")
    assert box.nodeCount() == 0
    ct.SetAttribute("Role", "map")
    mr.SetAttribute("Role", "input")
    assert box.nodeCount() == 2
    box.addAttribute("vtkMRMLScalarVolumeNode", "Role", "input")
    assert box.nodeFromIndex(0) is mr
    assert box.nodeCount() == 1
    box.removeAttribute("vtkMRMLScalarVolumeNode", "Role")
    assert box.nodeCount() == 2


def test_a_node_made_by_the_user_has_the_label_the_name_and_the_attributes(box, scene) -> None:
    box.baseName = "Map"
    box.addAttribute("vtkMRMLScalarVolumeNode", "Role", "map")
    box.setNodeTypeLabel("score map", "vtkMRMLScalarVolumeNode")
    made = []
    box.connect("nodeAddedByUser(vtkMRMLNode*)", made.append)
    combo = box.findChild(qt.QComboBox)
    combo.activated.emit(combo.findText("Create new score map"))
    assert [node.GetName() for node in made] == ["Map"]
    assert made[0].GetAttribute("Role") == "map"
    assert box.currentNode() is made[0]


def test_the_entries_that_act_can_be_left_out(box, scene) -> None:
    _add(scene)
    box.renameEnabled = True
    actions = ["Rename current Volume", "Create new Volume", "Delete current Volume"]
    assert _texts(box) == ["ct", *actions]
    box.addEnabled = box.removeEnabled = box.renameEnabled = False
    assert _texts(box) == ["ct"]
    box.setCurrentNodeIndex(0)
    box.removeCurrentNode()
    assert box.nodeCount() == 0


def test_the_user_chooses_by_the_list(box, scene) -> None:
    _add(scene)
    mr = _add(scene, "mr")
    box.findChild(qt.QComboBox).setCurrentIndex(1)
    assert box.currentNode() is mr


def test_a_batch_is_listed_at_its_end(box, scene) -> None:
    scene.StartState(scene.BatchProcessState)
    _add(scene)
    assert box.nodeCount() == 0
    scene.EndState(scene.BatchProcessState)
    assert box.nodeCount() == 1


def test_without_a_scene_there_is_nothing_to_choose(box, scene) -> None:
    box.setCurrentNode(_add(scene))
    box.setMRMLScene(None)
    assert box.currentNode() is None
    _add(scene, "mr")
    assert box.nodeCount() == 0


def test_a_box_that_is_gone_no_longer_listens(box, scene) -> None:
    import slicer

    kept = slicer.qMRMLNodeComboBox()
    kept.nodeTypes = ("vtkMRMLScalarVolumeNode",)
    kept.setMRMLScene(scene)
    shiboken6.delete(kept)
    dropped = slicer.qMRMLNodeComboBox()
    dropped.setMRMLScene(scene)
    inner = dropped.findChild(qt.QComboBox)
    del dropped
    gc.collect()
    run_events()
    _add(scene)
    assert not shiboken6.isValid(inner)


def test_several_nodes_can_be_checked(scene) -> None:
    import slicer

    box = slicer.qMRMLCheckableNodeComboBox()
    box.nodeTypes = ("vtkMRMLScalarVolumeNode",)
    box.setMRMLScene(scene)
    ct, mr = _add(scene), _add(scene, "mr")
    changes = []
    box.checkedNodesChanged.connect(lambda: changes.append(box.checkedNodes()))
    assert box.noneChecked()
    box.check(ct)
    box.setCheckState(mr, qt.Qt.Checked)
    assert box.allChecked()
    box.uncheck(ct)
    assert changes == [(ct,), (ct, mr), (mr,)]
    assert box.uncheckedNodes() == (ct,)
    scene.RemoveNode(mr)
    assert box.checkedNodes() == ()


def test_color_maps_are_listed(scene) -> None:
    import slicer

    box = slicer.qMRMLColorTableComboBox()
    box.setMRMLScene(scene)
    box.setCurrentNodeID("vtkMRMLColorTableNodeGrey")
    assert box.currentNode().GetName() == "Grey"


def test_none_that_was_chosen_stays_when_nodes_come(box, scene) -> None:
    _add(scene)
    box.setCurrentNode(None)
    _add(scene, "mr")
    assert box.currentNode() is None
