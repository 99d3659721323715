"""Texts without the places of this machine: a log may be copied into a public forum."""

import tempfile
from pathlib import Path

import slicer


def withoutPlaces(text: str) -> str:
    """The text with the user's folders replaced by what they are."""
    # The deepest first: the temporary folder may lie in the user's.
    places = {
        slicer.app.temporaryPath: "<temporary folder>",
        tempfile.gettempdir(): "<temporary folder>",
        str(Path.home()): "<home>",
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, places[place])
    return text
