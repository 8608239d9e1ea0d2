# One image for Kubeflow's steps and Beam's workers (docs/kubeflow.md, "The image").
#   docker build -t REGISTRY/resnet-tfx:VERSION .
#   docker build -t REGISTRY/resnet-tfx:VERSION-gpu --build-arg SET=gpu .
ARG PYTHON=python:3.11-slim-bookworm
# The release of apache-beam in the locks.
ARG BEAM=apache/beam_python3.11_sdk:2.77.0

# hadolint ignore=DL3006
FROM ${BEAM} AS beam

# hadolint ignore=DL3006
FROM ${PYTHON} AS build
# The lock: base, gpu or kubeflow.
ARG SET=base
WORKDIR /build
# A few of TFX's libraries come as source alone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY requirements/uv.txt requirements/${SET}.lock requirements/
RUN python -m pip install --no-cache-dir --target /uv --require-hashes -r requirements/uv.txt \
 && python -m venv --without-pip /opt/resnet-tfx \
 && /uv/bin/uv pip sync --no-cache --python /opt/resnet-tfx/bin/python --require-hashes --compile-bytecode \
      requirements/${SET}.lock
# After the lock: a change of the code leaves the layer of the libraries as it is.
COPY pyproject.toml README.md LICENSE ./
COPY components components
COPY models models
COPY pipeline pipeline
COPY serving serving
RUN /uv/bin/uv pip install --no-cache --python /opt/resnet-tfx/bin/python --no-deps --no-build-isolation \
      --compile-bytecode .

# hadolint ignore=DL3006
FROM ${PYTHON}
RUN useradd --uid 1000 --create-home resnet
COPY --from=build /opt/resnet-tfx /opt/resnet-tfx
COPY --from=beam /opt/apache/beam /opt/apache/beam
# Beam's workers use this environment and not a fresh one; on a GPU no process takes all memory at once.
ENV PATH=/opt/resnet-tfx/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    TF_FORCE_GPU_ALLOW_GROWTH=true
USER 1000
WORKDIR /home/resnet
# Beam's runners give arguments alone; Kubeflow says its own command.
ENTRYPOINT ["/opt/apache/beam/boot"]
