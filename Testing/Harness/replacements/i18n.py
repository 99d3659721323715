"""`slicer.i18n`: texts for translation. Here nothing is translated."""

import inspect
from pathlib import Path

import slicer


def translate(context: str, text: str) -> str:
    """The text in the language of the application."""
    return slicer.app.translate(context, text)


def tr(text: str) -> str:
    """The text in the language of the application, in the context of the calling file."""
    caller = inspect.currentframe().f_back
    return translate(Path(caller.f_code.co_filename).stem, text)
