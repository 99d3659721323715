"""Slicer's PyTorch extension, which knows the build of torch that fits this machine."""

import slicer

NAME = "PyTorch"
"""Its name in the Extensions Manager."""


class PyTorchExtension:
    """Installs torch; where the extension itself is missing, it can be installed first."""

    def isThere(self) -> bool:
        """Whether the extension is installed and loaded."""
        return self._utilities() is not None

    def canBeInstalled(self) -> bool:
        """Whether this Slicer has an Extensions Manager to install it with."""
        return self._manager() is not None

    def install(self) -> bool:
        """Install the extension without further questions; it is there after a restart.

        Slicer does not answer meanwhile: some seconds, with a network.
        """
        manager = self._manager()
        if manager is None:
            return False
        manager.interactive = False
        try:
            return bool(manager.installExtensionFromServer(NAME, False))
        finally:
            manager.interactive = True

    def installTorch(self, requirement: str) -> None:
        """Install torch in the build for this machine; raises what the extension raises.

        Slicer does not answer meanwhile: the extension offers no other way. It takes no
        options of pip, whose environment variables do instead.

        Args:
            requirement: Version specifier, such as `>=2.4`.
        """
        self._utilities().installTorch(askConfirmation=False, torchVersionRequirement=requirement)

    def _utilities(self) -> object | None:
        try:
            from PyTorchUtils import PyTorchUtilsLogic
        except ImportError:
            return None
        return PyTorchUtilsLogic()

    def _manager(self) -> object | None:
        model = getattr(slicer.app, "extensionsManagerModel", None)
        return model() if model is not None else None
