# Locust with the load test, a master or a worker. Built from the repository's root: docker build -f deploy/loadtest.Dockerfile .
FROM python:3.13-slim AS dependencies
RUN python -m venv /venv
COPY requirements-loadtest.lock .
# As in Dockerfile.
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
      -r requirements-loadtest.lock && \
    /venv/bin/pip uninstall --yes --quiet pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin busyapi && \
    install --directory --owner=busyapi /runs
WORKDIR /app
COPY --from=dependencies /venv /venv
COPY service service
COPY loadtest loadtest
RUN /venv/bin/python -m compileall -q service loadtest
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER busyapi
# Journals and timelines; a volume, as every process of a test writes here.
VOLUME /runs
EXPOSE 8089 5557
CMD ["locust", "--locustfile=loadtest/locustfile.py"]
