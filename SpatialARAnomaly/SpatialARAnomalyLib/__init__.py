"""SpatialARAnomaly: finds what does not look normal in a medical scan.

A volume is cut into slices, a frozen DINOv3 embeds each slice into a grid of
tokens, an autoregressive CNN predicts each token from the ones before it, and
what it finds unlikely is mapped back to voxels, calibrated, and reported as
findings.
"""

__version__ = "0.1.0"
