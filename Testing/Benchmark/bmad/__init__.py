"""The BMAD comparison, in the order of the data.

layout (which files) → images (pixels) → methods (fit and score; choices holds their names)
→ pixel_counts (metrics) → job (the whole comparison) → table → command.
"""
