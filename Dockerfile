# Two images, each with the dependencies of its own extra and of the features that it can have:
#   docker build --target gateway --tag rejoin-gateway .   its commands: gateway, migrate, doctor, keys, runs, …
#   docker build --target runner --tag rejoin-runner .     its command: runner
# With spans: --build-arg EXTRAS="--extra otel". The smallest image: --build-arg FEATURES= (docs/install.md).
# The base is pinned to a release. To pin its bytes: --build-arg BASE=python:3.13.9-slim-bookworm@sha256:…
ARG BASE=python:3.13.9-slim-bookworm

FROM ${BASE} AS build
RUN pip install --no-cache-dir uv==0.13.8
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /rejoin
COPY pyproject.toml uv.lock README.md LICENSE ./

# Dependencies come first: a change of the code alone rebuilds no more than the last layer.
FROM build AS build-gateway
ARG FEATURES="--extra images --extra api-docs --extra mcp"
ARG EXTRAS=
RUN uv sync --frozen --no-dev --no-install-project --extra gateway ${FEATURES} ${EXTRAS}
COPY . ./
RUN uv sync --frozen --no-dev --no-editable --extra gateway ${FEATURES} ${EXTRAS}

FROM build AS build-runner
ARG FEATURES="--extra anthropic --extra mcp"
ARG EXTRAS=
RUN uv sync --frozen --no-dev --no-install-project --extra runner ${FEATURES} ${EXTRAS}
COPY . ./
RUN uv sync --frozen --no-dev --no-editable --extra runner ${FEATURES} ${EXTRAS}

FROM ${BASE} AS base
ENV PATH=/rejoin/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["rejoin"]

FROM base AS runner
COPY --from=build-runner /rejoin/.venv /rejoin/.venv
CMD ["runner"]

FROM base AS gateway
COPY --from=build-gateway /rejoin/.venv /rejoin/.venv
CMD ["gateway"]
