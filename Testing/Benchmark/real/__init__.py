"""The comparison on real images, in the order of the data.

layout (BMAD's folders) → patients, png, scans (images, masks, truth) → tokens → methods (fit
and score) → counts (measures and resamples) → comparison (the whole) → tables → command.
`drawn` and `lesions` compare on lesions drawn into normal scans.
"""
