# picosnitch-exporter in a container. `make image` builds it; docs/install.md says how to run it.
#
# Both stages are of the same Debian, whose Python then is the same too. For a build that comes out
# the same bit by bit, give the base by its digest: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN apt-get update -q && apt-get install -q -y --no-install-recommends \
        ca-certificates clang libbpf-dev linux-libc-dev llvm make python3 python3-venv
COPY deploy/requirements.lock deploy/requirements-build.lock /src/deploy/
# Two environments: what builds the wheel is not shipped. pip itself is not shipped either.
RUN python3 -m venv /build \
    && /build/bin/pip install -q --require-hashes -r /src/deploy/requirements-build.lock \
    && python3 -m venv --without-pip /opt/picosnitch-exporter \
    && /build/bin/pip --python /opt/picosnitch-exporter/bin/python install -q \
        --require-hashes --only-binary :all: -r /src/deploy/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY ebpf /src/ebpf
COPY exporter /src/exporter
RUN cd /src \
    && /build/bin/python -m hatchling build -t wheel -d /tmp/dist \
    && /build/bin/pip --python /opt/picosnitch-exporter/bin/python install -q --no-deps \
        --no-index /tmp/dist/*.whl
COPY deploy/sbom.cdx.json /opt/picosnitch-exporter/
# Compiled here, since the root is read-only; by hash, so that no time of a file gets into it.
RUN cd /opt/picosnitch-exporter \
    && find . -name __pycache__ -prune -exec rm -rf {} + \
    && find . -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && /build/bin/python -m compileall -q --invalidation-mode unchecked-hash -s / -p / \
        lib/python3*/site-packages \
    && find . -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE}
ARG SOURCE_DATE_EPOCH=0
ARG VERSION=0
ARG REVISION=unknown
# libbpf loads the program, Python runs the rest; certificates for OTLP, VirusTotal and webhooks.
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        ca-certificates libbpf1 libseccomp2 python3-minimal libpython3-stdlib \
    && apt-get clean \
    && useradd --system --uid 10054 --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin picosnitch-exporter \
    && install -d -m 0700 -o 10054 -g 10054 /var/lib/picosnitch \
    && install -d /etc/picosnitch-exporter \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* /etc/passwd- /etc/shadow- /etc/group- \
        /etc/gshadow- /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
    && find / -xdev -newermt "@${SOURCE_DATE_EPOCH}" -not -path '/proc/*' -not -path '/sys/*' \
        -exec touch -h -d "@${SOURCE_DATE_EPOCH}" {} + 2>/dev/null || true
COPY --from=build /opt/picosnitch-exporter /opt/picosnitch-exporter

LABEL org.opencontainers.image.title="picosnitch-exporter" \
      org.opencontainers.image.description="Network traffic of every executable, by SHA-256, for Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.documentation="docs/install.md"

ENV PATH=/opt/picosnitch-exporter/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 10054
# Without it there would be nothing to write to: the root is meant to be read-only.
VOLUME ["/var/lib/picosnitch"]
# The sensor has to be root, of few capabilities; the process that listens is picosnitch-exporter.
USER 0:0
STOPSIGNAL SIGTERM
# With TLS, or another port: docker run --health-cmd, or --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-I", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:10054/-/ready', timeout=4)"]
ENTRYPOINT ["picosnitch-exporter"]
CMD ["run"]
