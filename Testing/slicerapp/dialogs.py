"""Answers in place of dialogs."""

from pathlib import Path
from typing import Any


def make_answers() -> Any:
    """Make `Dialogs` that give the answers a test sets, and keep the questions."""
    from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs

    class Answers(Dialogs):
        """`yes` answers questions (a list: one each), `path` is the chosen file or folder.

        `choice` is the index of the chosen name.
        """

        def __init__(self) -> None:
            self.yes: bool | list[bool] = False
            self.path: Path | str = ""
            self.text = ""
            self.choice: int | None = None
            self.accepts = True
            self.questions: list[str] = []
            self.licenses: list[bool] = []
            self.opened: list[Path] = []
            self.restarts = 0

        def confirm(self, question: str) -> bool:
            self.questions.append(question)
            return self.yes if isinstance(self.yes, bool) else self.yes.pop(0)

        def chooseFolder(self, title: str) -> str:
            return str(self.path)

        def chooseFile(self, title: str, filters: str) -> str:
            return str(self.path)

        def chooseNewFile(self, title: str, name: str, filters: str) -> str:
            return str(self.path)

        def enterText(self, title: str, label: str, text: str) -> str:
            return self.text

        def chooseOne(self, title: str, label: str, names: list[str]) -> int | None:
            self.questions.append("; ".join(names))
            return self.choice

        def showLicense(self, *, ask: bool) -> bool:
            self.licenses.append(ask)
            return self.accepts

        def openFolder(self, folder: Path) -> None:
            self.opened.append(folder)

        def restartSlicer(self) -> None:
            self.restarts += 1

    return Answers()
