# syntax=docker/dockerfile:1
# The commands of ssl4seg on PyTorch for CPUs; docs/releasing.md says how to build and run it, also for GPUs.
FROM python:3.11-slim

# The index with PyTorch's wheels: cpu, or cu126, cu128, ... with CUDA inside; the driver is the host's.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# PyTorch has a layer of its own, because it changes rarely and is most of the image.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c /constraints.txt torch torchvision
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c /source/constraints.txt "/source[export]"

# Nothing runs as root. Home and /work are open to all, so that `docker run --user` may name any user of the host.
RUN useradd --create-home ssl4seg && mkdir /work && chmod 777 /home/ssl4seg /work
ENV HOME=/home/ssl4seg
USER ssl4seg
WORKDIR /work

ENTRYPOINT ["ssl4seg-train"]
CMD ["--help"]
