# Everything a developer types. `make` alone lists the targets.

PORT ?= 8080
WEB ?= 2
CASSANDRA_NODES ?= 1
RESTART ?=
HTTPS_PORT ?=
CERTIFICATE ?=
FRESH ?=
ARGS ?=
SHAPE ?=
RATE ?=
USERS ?=
WORKERS ?=
STORE ?=
HEADLESS ?=
RUN_TIME ?=
UI_PORT ?=
SEED ?=
MINUTES ?=
ONLY ?=

python = .venv/bin/python
url = http://127.0.0.1:$(PORT)

.DEFAULT_GOAL := help
.PHONY: help run cluster bench bench-quick bench-packages test test-fast test-system chaos chaos-quick overload chaos-packages test-packages load lint format lock certificate fetch venv venv-dev system-packages clean

help:
	@echo 'make run                the service on SQLite at http://127.0.0.1:8080 (PORT=8080)'
	@echo 'make cluster            HAProxy, web instances and Cassandra on loopback, without Docker'
	@echo '                        (WEB=2 CASSANDRA_NODES=1 PORT=8080 HTTPS_PORT= CERTIFICATE= RESTART=1 FRESH=1)'
	@echo 'make test               everything: lint, unit, API, stores, and the system tests on a real Cassandra'
	@echo 'make test-fast          what needs neither HAProxy nor Cassandra nor tools around the service, in about a minute (ARGS="-k group")'
	@echo 'make test-system        the system tests alone (ARGS="-k streamed" STREAMED_USAGES=1000000: a million in and out;'
	@echo '                        TEST_CASSANDRA_NODES=3: three nodes, for the tests that ask for no particular number)'
	@echo 'make chaos              faults from a seeded schedule under load, then the proof that nothing was lost; 80 minutes'
	@echo '                        (SEED=1 MINUTES=60 CASSANDRA_NODES=3 ONLY=web-kill,disk; ARGS=--list, ARGS=--help)'
	@echo 'make chaos-quick        the short ones of them, in under five minutes; part of make test'
	@echo 'make overload           three times the peak for two minutes, then a minute without Cassandra; eight minutes (ARGS=--help)'
	@echo 'make bench              every claim about speed, measured beside what it is compared with; half an hour'
	@echo '                        (bench/results.json and bench/report.html; ARGS="--only express,curve", ARGS=--help)'
	@echo 'make bench-quick        the first three of them, in under three minutes'
	@echo 'make load               Locust against a topology of its own, reconciled, with a report in loadtest/runs/'
	@echo '                        (SHAPE=ramp-to-16k RATE= USERS=256 USER=UsageUser WORKERS=0 HEADLESS=1 RUN_TIME=60s'
	@echo '                        WEB=2 UI_PORT=8089, HOST=url STORE=url for what runs already; ARGS=--help)'
	@echo 'make lint               ruff, ruff format, mypy --strict'
	@echo 'make format             let ruff format and mend'
	@echo 'make certificate        a self-signed certificate for HTTPS on port 5000 of docker-compose'
	@echo 'make lock               write both locks anew from pyproject.toml'
	@echo 'make system-packages    HAProxy, Java 17, Maven, openssl and a C compiler through the package manager, where missing'
	@echo 'make test-packages      what only the tests use on top: Chromium, Go and faketime'
	@echo 'make clean              remove what was made here, save data/ and the downloads in .cache/'

run: venv
	@echo
	@echo 'Try, in another terminal:'
	@echo
	@echo "  curl -i $(url)/api/usages -H 'Content-Type: application/json' -d '{\"patientId\": \"100\", \"timestamp\": \"Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)\", \"medication\": \"Albuterol\"}'"
	@echo "  curl -i $(url)/api/usages/1"
	@echo "  curl -i $(url)/messages -d '{\"message\": \"foo\"}'"
	@echo
	@BUSYAPI_LISTEN_PORT='$(PORT)' BUSYAPI_DRAIN_DELAY_S="$${BUSYAPI_DRAIN_DELAY_S:-0}" exec $(python) -m service serve

cluster: venv
	@exec $(python) -m deploy.cluster --web '$(WEB)' --cassandra-nodes '$(CASSANDRA_NODES)' --port '$(PORT)' \
	  $(if $(filter-out 0,$(RESTART)),--restart) $(if $(filter-out 0,$(FRESH)),--fresh) \
	  $(if $(CERTIFICATE),--certificate '$(CERTIFICATE)') \
	  $(if $(HTTPS_PORT),--https --https-port '$(HTTPS_PORT)') $(ARGS)

# What ARGS choose may all be in one of the two.
none = $(if $(ARGS),|| [ $$? = 5 ])

# Half of what they do is waiting.
pytest_workers = $$((2 * $$(getconf _NPROCESSORS_ONLN)))

test: system-packages test-packages lint fetch
	@echo '== tests of a process or two, on all cores'
	@$(python) -m pytest --ignore=tests/system -m 'not cassandra and not slow' -n $(pytest_workers) --dist worksteal $(ARGS) $(none)
	@echo '== tests on a real Cassandra and HAProxy, and those that kill and wait, one after the other'
	@$(python) -m pytest -m 'system or cassandra or slow' $(ARGS) $(none)

test-fast: venv-dev
	@deploy/install-system-packages cc  # for the load generator
	@exec $(python) -m pytest --ignore=tests/system -m 'not cassandra and not slow and not tools' -n $(pytest_workers) --dist worksteal $(ARGS)

test-system: system-packages test-packages venv-dev fetch
	@exec $(python) -m pytest tests/system $(ARGS)

# As with USER and PORT below: the number of nodes has a default for make cluster, and counts here when it is said.
chaos: system-packages chaos-packages venv-dev fetch
	@exec $(python) -m tests.chaos $(if $(SEED),--seed '$(SEED)') $(if $(MINUTES),--minutes '$(MINUTES)') \
	  $(call said,CASSANDRA_NODES,--cassandra-nodes) $(if $(ONLY),--only '$(ONLY)') $(ARGS)

chaos-quick: system-packages chaos-packages venv-dev fetch
	@exec $(python) -m tests.chaos --quick $(ARGS)

overload: system-packages venv-dev fetch
	@exec $(python) -m tests.chaos.overload $(ARGS)

bench: system-packages bench-packages venv-dev fetch
	@exec $(python) -m loadtest.benchmark $(ARGS)

bench-quick: system-packages bench-packages venv-dev fetch
	@exec $(python) -m loadtest.benchmark --quick --out bench/quick $(ARGS)

# USER, HOST and PORT are in many an environment, or mean another thing there: they count when they are said to make.
said = $(if $(filter command,$(firstword $(origin $(1)))),$(2) '$($(1))')

load: $(if $(filter command,$(firstword $(origin HOST))),,system-packages fetch) venv-dev
	@exec $(python) -m loadtest.run --web '$(WEB)' $(if $(SHAPE),--shape '$(SHAPE)') $(if $(RATE),--rate '$(RATE)') \
	  $(if $(USERS),--users '$(USERS)') $(if $(WORKERS),--workers '$(WORKERS)') $(if $(STORE),--store '$(STORE)') \
	  $(if $(filter-out 0,$(HEADLESS)),--headless) $(if $(RUN_TIME),--run-time '$(RUN_TIME)') \
	  $(if $(UI_PORT),--ui-port '$(UI_PORT)') $(call said,USER,--user) $(call said,HOST,--host) \
	  $(call said,PORT,--port) $(ARGS)

lint: venv-dev
	@echo '== ruff check' && $(python) -m ruff check .
	@echo '== ruff format' && $(python) -m ruff format --check .
	@echo '== mypy' && $(python) -m mypy

format: venv-dev
	@$(python) -m ruff check --fix . ; $(python) -m ruff format .

lock: venv-dev
	@$(python) -m pip install --quiet uv
	@set -e; lock='$(python) -m uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --quiet --upgrade'; \
	  $$lock --output-file requirements.lock; \
	  $$lock --group dev --constraint requirements.lock --output-file requirements-dev.lock; \
	  $$lock --group loadtest --constraint requirements-dev.lock --output-file requirements-loadtest.lock

certificate: haproxy/certs/busyapi.pem

haproxy/certs/busyapi.pem:
	@openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost \
	  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout $@.key -out $@ 2>/dev/null
	@chmod 644 $@.key
	@echo 'self-signed: $@ and $@.key; now: docker-compose restart haproxy'

fetch: venv-dev
	@$(python) -m deploy.cluster fetch

venv:
	@deploy/make-venv requirements.lock

venv-dev:
	@deploy/make-venv requirements-dev.lock

system-packages:
	@deploy/install-system-packages haproxy java17 maven openssl cc

# A browser for the load test's web UI, and what faults are made with.
test-packages:
	@deploy/install-system-packages chromium go faketime

# Each alone, so that one that cannot be had keeps no other away: its rows are named as missing then.
bench-packages:
	@for tool in node go postgresql wrk; do deploy/install-system-packages $$tool \
	  || echo "The benchmark goes on without $$tool: what needs it will be missing." >&2; done

# As above: a fault whose tool cannot be had is named as not run.
chaos-packages:
	@for tool in go faketime; do deploy/install-system-packages $$tool \
	  || echo "Chaos goes on without $$tool: what needs it will not be run." >&2; done

clean:
	rm -rf .venv .cluster .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.cache/*' -prune -exec rm -rf {} +
