"""What runs inside Slicer: nodes, panels and the worker's process. Names are Slicer's camelCase."""
