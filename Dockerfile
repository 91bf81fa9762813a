# One image for every service: `rejoin migrate | gateway | runner …` is its command.
# The base is pinned to a release; to pin its bytes too: --build-arg BASE=python:3.13.9-slim-bookworm@sha256:…
ARG BASE=python:3.13.9-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.8
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /rejoin
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project
COPY adapters adapters
COPY protocol protocol
COPY gateway gateway
COPY runner runner
COPY rejoin rejoin
COPY migrations migrations
RUN uv sync --frozen --no-dev --no-editable

FROM ${BASE}
COPY --from=build /rejoin/.venv /rejoin/.venv
ENV PATH=/rejoin/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["rejoin"]
CMD ["--help"]
