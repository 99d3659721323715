"""PySide6 with the rules of PythonQt, Slicer's Qt binding.

Calls that fail in PythonQt fail here, too, so that code that passes the tests runs in Slicer. The
rules were measured on real PythonQt (Qt 5 and Qt 6 builds). Classes are patched in place and never
subclassed, because code compares `type(widget)` with them.

Known differences from PythonQt:

- Wrong types that PythonQt converts (`setText(3)`, a Path for a string) are refused.
- Static methods and calls through the class (`qt.QLabel.setText(w, x)`) follow PySide6.
- Values that are no QObject (QColor, QSize, QByteArray, items of a table) follow PySide6: they
  accept new attributes and keywords, and a null one is true.
- Enumerations are Python's, not ints: compare them with their names only.
- Settings that are lists of one or no element come back otherwise than in PythonQt.
- Errors of overridden virtual methods other than event handlers reach the caller.
- A deleted object is false but not `== None`.
- Private attributes (`_x`) can be set on stand-ins for widgets of CTK and Slicer, which keep
  their state there.
- Python threads run while Qt waits: in Slicer they stand still.
- Crashes of PythonQt by lifetime are not reproduced, except that custom signals on plain
  classes raise.
"""

import os
import sys
import types


def install() -> types.ModuleType:
    """The module `qt`, made on the first call and importable from then on."""
    if "qt" not in sys.modules:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        from . import module

        sys.modules["qt"] = module.install()
    return sys.modules["qt"]
