"""The harness's own tests run on the application that it makes."""

from Harness.fixtures import _no_slot_errors, app, load_module, rendering, scene, settings

__all__ = ["_no_slot_errors", "app", "load_module", "rendering", "scene", "settings"]
