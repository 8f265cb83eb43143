# lit-instruct in a container, on a CPU or on NVIDIA GPUs.
#
#   docker build -t lit-instruct .
#   docker build -t lit-instruct:cuda --build-arg DEVICE=cuda .     (the host has the driver and NVIDIA's container toolkit)
#   docker run --rm -it -v "$PWD:/work" lit-instruct init my-run
#   docker run --rm -it --gpus all -v "$PWD/my-run:/work" lit-instruct:cuda sft fit --config sft.yaml
ARG DEVICE=cpu

FROM python:3.12-slim-bookworm AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

# PyPI's torch for Linux has CUDA's libraries; Triton, which compiles flex attention, needs a C compiler.
FROM python:3.12-slim-bookworm AS cuda
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY lit_instruct lit_instruct
COPY data_modules data_modules
COPY recipes recipes
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

# hadolint ignore=DL3006
FROM ${DEVICE}
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir "$(grep '^torch==' /tmp/constraints.txt)"
COPY --from=wheel /dist /dist
RUN set -- /dist/*.whl && pip install --no-cache-dir --constraint /tmp/constraints.txt "$1[quantization,rank]" \
    && useradd --create-home --uid 1000 user && mkdir /work && chown user /work
USER 1000
WORKDIR /work
ENTRYPOINT ["lit-instruct"]
CMD ["--help"]
