"""Reading and writing of nodes and scenes, in the place of qSlicerCoreIOManager."""

from pathlib import Path
from typing import Any, NamedTuple

import slicer
import vtk


class _FileType(NamedTuple):
    """A file type: its name, node class, storage class and file name endings."""

    name: str
    node_class: str
    storage_class: str
    extensions: tuple[str, ...]


# In the order in which a file's name is compared with them.
_FILE_TYPES = (
    _FileType(
        "SegmentationFile",
        "vtkMRMLSegmentationNode",
        "vtkMRMLSegmentationStorageNode",
        (".seg.nrrd", ".seg.nhdr", ".seg.vtm", ".seg.nii.gz"),
    ),
    _FileType(
        "ColorTableFile",
        "vtkMRMLColorTableNode",
        "vtkMRMLColorTableStorageNode",
        (".ctbl", ".txt", ".csv"),
    ),
    _FileType(
        "TableFile",
        "vtkMRMLTableNode",
        "vtkMRMLTableStorageNode",
        (".tsv", ".csv", ".schema.csv"),
    ),
    _FileType(
        "ModelFile",
        "vtkMRMLModelNode",
        "vtkMRMLModelStorageNode",
        (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    ),
    _FileType(
        "MarkupsFile",
        "vtkMRMLMarkupsFiducialNode",
        "vtkMRMLMarkupsJsonStorageNode",
        (".mrk.json", ".json", ".fcsv"),
    ),
    _FileType("TextFile", "vtkMRMLTextNode", "vtkMRMLTextStorageNode", (".txt", ".json", ".xml")),
    _FileType(
        "TransformFile",
        "vtkMRMLLinearTransformNode",
        "vtkMRMLTransformStorageNode",
        (".h5", ".tfm"),
    ),
    _FileType(
        "VolumeFile",
        "vtkMRMLScalarVolumeNode",
        "vtkMRMLVolumeArchetypeStorageNode",
        (".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd", ".dcm"),
    ),
)
_BY_NAME = {file_type.name: file_type for file_type in _FILE_TYPES}
# The file type of an ending that several types share.
_READ_AS = {".csv": "TableFile", ".txt": "TextFile", ".json": "TextFile"}
_ABSTRACT_NODES = {"vtkMRMLVolumeNode": "VolumeFile", "vtkMRMLTransformNode": "TransformFile"}


def _type_of_node(node: Any) -> _FileType:
    for class_name, name in _ABSTRACT_NODES.items():
        if node.IsA(class_name):
            return _BY_NAME[name]
    return next(file_type for file_type in _FILE_TYPES if node.IsA(file_type.node_class))


class FileIO:
    """Loads and saves for `slicer.util`."""

    def __init__(self, scene: Any, application_logic: Any, cache_path: Path):
        self._scene, self._application_logic = scene, application_logic
        # Scene bundles are read through these.
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLScene(scene)
        self._remote.SetMRMLApplicationLogic(application_logic)
        self._remote.GetCacheManager().SetRemoteCacheDirectory(str(cache_path))
        self._manager = slicer.vtkDataIOManagerLogic()
        self._manager.SetMRMLScene(scene)
        self._manager.SetMRMLApplicationLogic(application_logic)
        self._manager.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._remote.AddDataIOToScene()

    def fileType(self, path: str) -> str:
        """Return the file type of a file name."""
        name = str(path).lower()
        if name.endswith((".mrb", ".mrml")):
            return "SceneFile"
        for extension, file_type in _READ_AS.items():
            if name.endswith(extension):
                return file_type
        for file_type in _FILE_TYPES:
            if name.endswith(file_type.extensions):
                return file_type.name
        return "VolumeFile"

    def fileWriterFileType(self, node: Any) -> str:
        """Return the file type of a node."""
        return _type_of_node(node).name

    def fileWriterExtensions(self, node: Any) -> tuple[str, ...]:
        """Return the name filters of the file type for a file dialog."""
        return tuple(f"{_type_of_node(node).name} (*{e})" for e in _type_of_node(node).extensions)

    def extractKnownExtension(self, path: str, node: Any) -> str:
        """Return the longest known ending of the name, or an empty string."""
        known = [e for e in _type_of_node(node).extensions if path.lower().endswith(e)]
        return max(known, key=len, default="")

    def registeredFileReaderCount(self, file_type: str) -> int:
        """Return 1 if files of the type can be read."""
        return int(file_type in _BY_NAME or file_type == "SceneFile")

    def addDefaultStorageNodes(self) -> None:
        """Do nothing: nodes get their storage node when they are written."""

    def loadNodes(
        self, file_type: str, properties: dict, loaded: Any, messages: Any = None
    ) -> bool:
        """Load the file `properties["fileName"]` and add its nodes to the collection."""
        path = Path(properties["fileName"])
        if not path.exists():
            return False
        if file_type == "SceneFile":
            return self._load_scene(path, clear=bool(properties.get("clear", False)))
        if file_type == "VolumeFile":
            node = self._load_volume(path, properties)
        else:
            node = self._load_with_storage(_BY_NAME[file_type], path, properties)
        if node is None:
            return False
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def _load_scene(self, path: Path, *, clear: bool) -> bool:
        if path.suffix == ".mrb":
            return bool(self._scene.ReadFromMRB(str(path), clear))
        self._scene.SetURL(str(path))
        return bool(self._scene.Connect() if clear else self._scene.Import())

    def _load_volume(self, path: Path, properties: dict) -> Any:
        options = (
            bool(properties.get("labelmap"))
            | bool(properties.get("center")) << 1
            | bool(properties.get("singleFile")) << 2
            | bool(properties.get("discardOrientation")) << 4
        )
        files = None
        if names := properties.get("fileNames"):
            files = vtk.vtkStringArray()
            for name in names:
                files.InsertNextValue(str(name))
        name = properties.get("name") or path.name.split(".")[0]
        logic = slicer.modules.volumes.logic()
        node = logic.AddArchetypeVolume(str(path), name, options, files)
        if node is not None and properties.get("show", True):
            has_views = slicer.app.layoutManager() is not None
            slicer.util.setSliceViewerLayers(background=node, fit=has_views)
        return node

    def _load_with_storage(self, file_type: _FileType, path: Path, properties: dict) -> Any:
        name = properties.get("name") or path.name.split(".")[0]
        node = self._scene.AddNewNodeByClass(
            file_type.node_class, self._scene.GenerateUniqueName(name)
        )
        storage = self._scene.AddNewNodeByClass(file_type.storage_class)
        storage.SetFileName(str(path.absolute()))
        if not storage.ReadData(node):
            self._scene.RemoveNode(storage)
            self._scene.RemoveNode(node)
            return None
        node.SetAndObserveStorageNodeID(storage.GetID())
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def saveNodes(self, file_type: str, properties: dict, messages: Any = None) -> bool:
        """Save the scene, or the node of `properties["nodeID"]`, to `properties["fileName"]`."""
        path = Path(properties["fileName"]).absolute()
        if file_type == "SceneFile":
            if path.suffix == ".mrb":
                return bool(self._scene.WriteToMRB(str(path)))
            if path.suffix == ".mrml":
                self._scene.SetURL(str(path))
                return bool(self._scene.Commit())
            save = self._application_logic.SaveSceneToSlicerDataBundleDirectory
            return bool(save(str(path), None))
        node = self._scene.GetNodeByID(properties["nodeID"])
        storage = node.GetStorageNode()
        if storage is None:
            storage = self._scene.AddNewNodeByClass(_type_of_node(node).storage_class)
            node.SetAndObserveStorageNodeID(storage.GetID())
        storage.SetFileName(str(path))
        storage.SetUseCompression(properties.get("useCompression", 1))
        return bool(storage.WriteData(node))

    def exportNodes(
        self,
        node_ids: list[str],
        paths: list[str],
        properties: dict,
        harden: bool = False,
        messages: Any = None,
    ) -> bool:
        """Write the nodes without changing their storage nodes."""
        written = True
        for node_id, path in zip(node_ids, paths, strict=True):
            node = self._scene.GetNodeByID(node_id)
            storage = self._scene.AddNewNodeByClass(_type_of_node(node).storage_class)
            storage.SetFileName(str(Path(path).absolute()))
            written &= bool(storage.WriteData(node))
            self._scene.RemoveNode(storage)
        return written
