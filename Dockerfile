# The image that examples/kubernetes runs: `docker build --tag registry.example.org/teravec:0.1.0 .`
# The kernels choose their instructions at run time, so one image serves every x86-64 machine.
FROM python:3.11.13-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE requirements.lock ./
COPY src src
# The lock pins what is installed; -c installs nothing that teravec[serve] does not need.
RUN python -m venv /opt/teravec \
    && /opt/teravec/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/teravec/bin/pip install --no-cache-dir --constraint requirements.lock \
        "$(ls /wheels/*.whl)[serve]" \
    && /opt/teravec/bin/pip uninstall --yes pip setuptools
# Without a compiler the build leaves the kernels out: then there is no image.
RUN ["/opt/teravec/bin/python", "-c", "from teravec.native import extensions as e; missing = [n for n in e.EXTENSIONS if getattr(e, n) is None]; assert not missing, missing"]

FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="teravec" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/teravec /opt/teravec
ENV PATH=/opt/teravec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 7400 7480
STOPSIGNAL SIGTERM
ENTRYPOINT ["teravec"]
CMD ["--help"]
