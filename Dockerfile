# The node without Orthanc, which has an image of its own (docker-compose.yml puts them together).
FROM node:22-bookworm-slim AS viewer
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY ohif-config ohif-config
RUN python3 ohif-config/fetch.py

FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
# Whoever the container runs as: no password, no shell, and nothing but the data to write to.
RUN useradd --system --uid 10001 --home-dir /var/lib/mrisr_node --create-home \
      --shell /usr/sbin/nologin mrisr
WORKDIR /opt/mrisr_node
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mrisr_node mrisr_node
# Editable, so that orthanc/, ohif-config/ and checkpoints/ are found beside the package.
RUN pip install -c constraints.txt -e .
COPY orthanc orthanc
COPY checkpoints checkpoints
COPY --from=viewer /src/ohif-config ohif-config
USER mrisr
VOLUME /var/lib/mrisr_node
ENTRYPOINT ["mrisr-node"]
CMD ["--help"]
