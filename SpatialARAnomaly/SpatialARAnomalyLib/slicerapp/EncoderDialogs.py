"""What the section *Encoders* asks the user, in dialogs of their own."""

import qt
from slicer.i18n import tr as _

from ..service.encoder_license import license_text


class EncoderDialogs:
    """Asks over `parent`; tests put another object in its place."""

    def __init__(self, parent: "qt.QWidget") -> None:
        self._parent = parent

    def showLicense(self, ask: bool) -> bool:
        """Show the whole license; whether it was accepted, where it is asked for."""
        # With a parent: PythonQt deletes a parentless dialog twice.
        dialog = qt.QDialog(self._parent)
        dialog.setWindowTitle(_("DINOv3 License"))
        layout = qt.QVBoxLayout(dialog)
        if ask:
            intro = qt.QLabel(
                _(
                    "The weights of DINOv3 are Meta's and come under this license. Read it: "
                    "nothing is downloaded unless you accept."
                )
            )
            intro.setWordWrap(True)
            layout.addWidget(intro)
        text = qt.QTextEdit()
        text.setReadOnly(True)
        text.setMarkdown(license_text())
        layout.addWidget(text)
        box = qt.QDialogButtonBox()
        if ask:
            box.addButton(_("I accept"), qt.QDialogButtonBox.AcceptRole)
            decline = box.addButton(_("Decline"), qt.QDialogButtonBox.RejectRole)
            decline.setDefault(True)
            decline.setFocus()
        else:
            box.setStandardButtons(qt.QDialogButtonBox.Close)
        box.accepted.connect(dialog.accept)
        box.rejected.connect(dialog.reject)
        layout.addWidget(box)
        dialog.resize(640, 560)
        accepted = dialog.exec_() == qt.QDialog.Accepted
        dialog.deleteLater()
        return accepted

    def chooseFolder(self) -> str:
        """A folder of weights; empty where none was chosen."""
        return str(
            qt.QFileDialog.getExistingDirectory(self._parent, _("Folder of an encoder's weights"))
            or ""
        )

    def chooseFile(self) -> str:
        """A file of weights; empty where none was chosen."""
        chosen = qt.QFileDialog.getOpenFileName(
            self._parent, _("File of an encoder's weights"), "", _("Weights (*.safetensors)")
        )
        # PythonQt gives the path, others also the filter.
        return str((chosen[0] if isinstance(chosen, tuple) else chosen) or "")
