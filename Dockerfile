# Both images of the project. `docker build --target control .` or `--target runtime .` makes one.
#
# Each is a *deps* stage, which changes with the pinned requirements only, and a *code* stage of a few files on top, so
# that a change in the sources rebuilds one thin layer and nodes pull just that.
#
# Where the network needs a CA bundle of its own: `--secret id=ca-bundle,src=/etc/ssl/certs/ca-certificates.crt`. It is
# visible while building and not kept.
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

# --- Control plane: both controllers, small, no GPU library -----------------------------------------------------------
FROM ${PYTHON_IMAGE} AS control-deps
COPY setup.cfg hack/requirements-dev.txt /build/
# The direct requirements stand in setup.cfg, the versions of everything in the constraints.
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi; \
    set -e; cd /build; \
    python3 -c 'import configparser as c; p = c.ConfigParser(); p.read("setup.cfg"); print(p["options"]["install_requires"])' \
        > requirements.txt; \
    python3 -m venv /opt/venv; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint requirements-dev.txt --requirement requirements.txt; \
    rm -rf /build
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 65532:65532

FROM scratch AS control-code
COPY kube/ /app/kube/
COPY controller/ /app/controller/
COPY provisioner/ /app/provisioner/
# The control plane knows the runtime by its contract alone.
COPY runtime/__init__.py runtime/contract.py /app/runtime/
COPY runtime/engine/options.json /app/runtime/engine/
COPY runtime/training/options.json /app/runtime/training/

FROM control-deps AS control
COPY --from=control-code / /

# --- What runs in GPU pods: fetch, tune, push, serve ------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS runtime-deps
# skopeo and umoci move OCI images; gcc and Python's headers are for Triton, which compiles at start; libnuma and libgomp
# are what vLLM's CPU build loads.
RUN set -e; \
    headers=; if [ "$(command -v python3)" = /usr/bin/python3 ]; then headers=python3-dev; fi; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc g++ libc6-dev libgomp1 libnuma1 skopeo umoci $headers; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# REQUIREMENTS=requirements-cpu.txt and OVERRIDE=requirements-cpu-override.txt build the image for machines without GPU.
ARG REQUIREMENTS=requirements.txt
ARG OVERRIDE=
ARG UV_VERSION=0.13.9
COPY runtime/requirements*.txt /build/
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle SSL_CERT_FILE=/run/secrets/ca-bundle; fi; \
    set -e; cd /build; \
    python3 -m venv /opt/venv; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}; \
    /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-cache --compile-bytecode \
        --requirement ${REQUIREMENTS} ${OVERRIDE:+--override ${OVERRIDE}}; \
    /opt/venv/bin/uv pip uninstall --python /opt/venv/bin/python uv; \
    rm -rf /build; \
    mkdir -p /var/cache/runtime /workspace/weights /mnt/config /mnt/adapter /mnt/data /mnt/results; \
    chown -R 1000:1000 /var/cache/runtime /workspace /mnt/adapter /mnt/data /mnt/results
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/cache/runtime
WORKDIR /app
USER 1000:1000

FROM scratch AS runtime-code
COPY runtime/ /app/runtime/

FROM runtime-deps AS runtime
COPY --from=runtime-code / /
