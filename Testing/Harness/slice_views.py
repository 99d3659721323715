"""Slice views drawn off screen by Slicer's own displayable managers."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# VTK would otherwise look for an X server first.
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import slicer
import vtk
from vtkmodules.util.numpy_support import vtk_to_numpy

_DISPLAYABLE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)

_PROBE = """
import vtk
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
renderer = vtk.vtkRenderer()
renderer.SetBackground(1, 0, 0)
window.AddRenderer(renderer)
window.SetSize(8, 8)
grab = vtk.vtkWindowToImageFilter()
grab.SetInput(window)
grab.ReadFrontBufferOff()
grab.Update()
colors = [grab.GetOutput().GetScalarComponentAsDouble(4, 4, 0, i) for i in range(3)]
assert colors == [255, 0, 0], f"red comes out as {colors}"
"""


@functools.cache
def why_no_rendering() -> str | None:
    """Say why off-screen rendering is not possible; None if it is.

    The attempt is made in another process: without EGL, VTK may end it.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"nothing can be drawn off screen here (EGL): {last}"


class SliceView:
    """A slice view with Slicer's logic and nodes, and an off-screen window.

    The window is made when the view is first drawn.
    """

    def __init__(
        self,
        scene: Any,
        application_logic: Any,
        name: str,
        orientation: str,
        size_px: tuple[int, int],
    ):
        self._application_logic, self._size_px = application_logic, size_px
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if self.node is None:
            self.node = self.logic.AddSliceNode(name)
            self.node.SetOrientation(orientation)
        else:  # the layout's logic has made it
            self.logic.SetSliceNode(self.node)
        self.node.SetMappedInLayout(1)
        self.logic.ResizeSliceNode(*size_px)

    @functools.cached_property
    def window(self) -> Any:
        """The VTK render window."""
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetMultiSamples(0)
        window.SetSize(*self._size_px)
        window.AddRenderer(self._image_renderer())
        # Displayable managers draw in a layer above, as in Slicer: in one
        # layer with the image the fill of segments is not blended.
        overlay = vtk.vtkRenderer()
        overlay.SetLayer(1)
        overlay.GetActiveCamera().ParallelProjectionOn()
        window.SetNumberOfLayers(2)
        window.SetAlphaBitPlanes(1)
        window.AddRenderer(overlay)
        self._interactor = vtk.vtkRenderWindowInteractor()  # the managers need one
        self._interactor.SetRenderWindow(window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._managers = self._displayable_managers(overlay)
        return window

    def _image_renderer(self) -> Any:
        renderer = vtk.vtkRenderer()
        renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        renderer.AddViewProp(self._image)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self._follow)
        self._follow()
        return renderer

    def _displayable_managers(self, renderer: Any) -> Any:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._application_logic)
        for name in _DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.Initialize(factory, renderer)
        group.SetMRMLDisplayableNode(self.node)
        return group

    def _follow(self, *_: object) -> None:
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._image.SetVisibility(connection is not None)

    @property
    def composite_node(self) -> Any:
        """The slice composite node, which selects the volumes."""
        return self.logic.GetSliceCompositeNode()

    def fit(self) -> None:
        """Show all of the background volume."""
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def pixels(self) -> np.ndarray:
        """Return the image of the view [row from the top, column, RGB]."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        return values.reshape(rows, columns, -1)[::-1, :, :3].copy()

    def save(self, path: Path) -> None:
        """Write the image of the view to a PNG file."""
        import matplotlib.image

        matplotlib.image.imsave(path, self.pixels())

    def pixel_of(self, ras: tuple[float, float, float]) -> tuple[float, float]:
        """Return row and column in `pixels()` of a point (RAS mm)."""
        xy_from_ras = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), xy_from_ras)
        x, y, *_ = xy_from_ras.MultiplyPoint((*ras, 1.0))
        return self._size_px[1] - 1 - y, x

    def ras_of(self, row: float, column: float) -> tuple[float, float, float]:
        """Return the point (RAS mm) at this row and column of `pixels()`."""
        y = self._size_px[1] - 1 - row
        return tuple(self.node.GetXYToRAS().MultiplyPoint((column, y, 0.0, 1.0))[:3])
