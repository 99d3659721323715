# The command line for clusters, without 3D Slicer and without DINOv3 weights
# (Resources/Docs/setup.md, "In a container").
FROM python:3.11-slim

# https://download.pytorch.org/whl/cpu saves several gigabytes where there is no GPU.
ARG TORCH_INDEX=https://pypi.org/simple

WORKDIR /opt/spatial-ar-anomaly
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch==2.13.0
COPY LICENSE README.md pyproject.toml Testing/constraints.txt ./
COPY SpatialARAnomaly SpatialARAnomaly
RUN pip install --no-cache-dir --constraint constraints.txt ".[torch]" \
    && useradd --create-home --uid 1000 user

# Models, encoders and settings lie in its home: mount a folder there to keep them.
USER 1000
WORKDIR /home/user
ENTRYPOINT ["spatial-ar-anomaly"]
CMD ["--help"]
