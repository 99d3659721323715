"""Loaded by every Python process that a test starts, through PYTHONPATH."""

from network_guard import install, note_and_refuse

install(note_and_refuse)
