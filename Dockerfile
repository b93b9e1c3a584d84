# syntax=docker/dockerfile:1
# The commands of ssl4seg; docs/releasing.md says how to build and run it, also on GPUs.
FROM python:3.11-slim

# PyTorch has a layer of its own, because it changes rarely and is most of the image.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir -c /constraints.txt torch torchvision
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir -c /source/constraints.txt "/source[export,import,dicom]"

# Nothing runs as root. Home and /runs are open to all, so that `docker run --user` may name any user of the host.
RUN useradd --create-home ssl4seg && mkdir /runs && chmod 777 /home/ssl4seg /runs
ENV HOME=/home/ssl4seg
USER ssl4seg
WORKDIR /runs

ENTRYPOINT ["ssl4seg-train"]
CMD ["--help"]
