# The study in a container. CPU: docker build -t ecglib .    CUDA: docker build --build-arg TORCH=cu128 -t ecglib .
#   docker run ecglib                                          make repro: the whole study
#   docker run ecglib make test
#   docker run -p 8888:8888 ecglib make lab LAB="--no-browser --ip=0.0.0.0"
#   docker run -v FOLDER:/data:ro ecglib make real DATA=/data
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ecg \
    && install --directory --owner=1000 /ecglib
USER 1000
WORKDIR /ecglib

# PyTorch's own index has builds without the CUDA libraries (cpu), and with one of its versions (cu128, ...).
ARG TORCH=cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH} PIP_NO_CACHE_DIR=1

# What is pinned changes seldom: installed first, and kept while only the code changes.
COPY --chown=1000 requirements.lock ./
RUN python -m venv .venv && .venv/bin/pip install --disable-pip-version-check -r requirements.lock

COPY --chown=1000 . .
RUN make .venv/.ready
CMD ["make", "repro"]
