# The runtime for the CPU, without PyTorch: it serves artifacts, and exports none.
#
#   docker build --tag exaone-export .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume ./out:/artifact:ro --env EXAONE_EXPORT_API_KEY exaone-export
#
# For Kubernetes with KubeRay: docker build --build-arg EXTRAS=cpu,ray --tag exaone-export-ray .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=cpu,serve
WORKDIR /source
RUN python -m venv /opt/exaone-export
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY exaone_export exaone_export
COPY calibration calibration
COPY cli cli
COPY exporter exporter
COPY graphs graphs
COPY runtime runtime
RUN /opt/exaone-export/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
ARG EXTRAS=cpu,serve
# KubeRay asks its pods with wget whether they are ready.
RUN case "${EXTRAS}" in *ray*) \
  apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*;; esac
RUN useradd --uid 10001 --create-home exaone
COPY --from=build /opt/exaone-export /opt/exaone-export
ENV PATH=/opt/exaone-export/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /home/exaone
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["exaone-export"]
CMD ["serve", "/artifact", "--host", "0.0.0.0", "--model-name", "exaone", "--log-json"]
