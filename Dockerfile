# hcnr on a GPU: CUDA 13.0's compilers and torch for CUDA 13.0 (cu130).
# This file has never been built: the machines that the project was written on have no Docker.
#
#   docker build -t hcnr .
#   docker run --rm --gpus all -v "$PWD:/workspace" hcnr info
#   docker run --rm --gpus all -v "$PWD:/workspace" hcnr run BASE TUNED --task task.jsonl
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/hcnr
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
COPY constraints.txt /src/
RUN /opt/hcnr/bin/pip install --no-cache-dir -c /src/constraints.txt --index-url "$TORCH_INDEX" torch
COPY . /src
# HCNR_CUDA=1: a missing nvcc, or a source that does not compile, fails here and not at the first run.
ARG HCNR_CUDA_ARCHS="80;86;89;90a"
RUN git config --global --add safe.directory /src \
    && HCNR_CUDA=1 HCNR_CUDA_ARCHS="$HCNR_CUDA_ARCHS" \
       /opt/hcnr/bin/pip install --no-cache-dir -c /src/constraints.txt "/src[evaluate,peft,datasets]"

# Triton compiles a small launcher in C when a kernel is first started, so gcc and Python's headers stay.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/hcnr /opt/hcnr
ENV PATH=/opt/hcnr/bin:$PATH HCNR_CACHE=/workspace/.hcnr-cache
WORKDIR /workspace
ENTRYPOINT ["hcnr"]
