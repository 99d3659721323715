"""The science: plain Python, numpy and torch. No prints, settings, Slicer or Qt."""
