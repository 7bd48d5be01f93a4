# `make` runs every check. Each target that needs the environment sets it up first, once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PREBUILT := tuning_db/prebuilt/autoconv.db
PREBUILT_FROM := hatch_build.py autoconv/problem.py $(wildcard tuning_db/*.py tuning_db/prebuilt/*.py tuning_db/prebuilt/*.jsonl)
OTHER_TRITONS := 3.3.1 3.9.0
TESTED_TRITONS := 3.3.1 3.6.0 3.9.0
OFFLINE := sqlite-utils sqlite-fts4 click click-default-group filelock platformdirs
MODELS := transformers openai-whisper asteroid
EXAMPLES ?= 5000
JOBS ?= 2
SEED ?= 1

# The tests start hundreds of processes; where bytecode is not kept, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := check
.PHONY: check setup demo test fuzz stress lint format types docs docs-update emitted bench bench-cold bench-model bench-floor bench-buckets bench-noise bench-db test-models test-ray test-triton-versions gpu offline-bundle prebuilt dist clean help

check: lint types docs test  ## Everything that must hold before a change goes in

setup: $(READY) $(PREBUILT)  ## The development environment, in .venv

demo: setup  ## Tune three convolutions for an RTX 4090, no GPU needed
	$(RUN) scripts/demo.py

test: setup  ## The tests and the docstrings' examples, JOBS files at a time
	$(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile

fuzz: setup  ## EXAMPLES random problems in the interpreter, and emitted, and sequences of calls; the same for the same SEED
	FUZZ_EXAMPLES=$(EXAMPLES) $(RUN) -m pytest tests/kernels/test_numerics.py tests/kernels/test_emitted.py \
		-k "float64 or drawn" \
		--hypothesis-seed=$(SEED) -o faulthandler_timeout=0
	FUZZ_EXAMPLES=$(EXAMPLES) $(RUN) -m pytest tests/dispatch/test_torture.py \
		--hypothesis-seed=$(SEED) -o faulthandler_timeout=0

stress: setup  ## What the tuning database survives, thousands of times, as a table; ten thousand sizes of a layer; ten minutes
	$(RUN) -m pytest tests/faults tests/dispatch/test_sizes.py --stress -q -o faulthandler_timeout=0
	$(RUN) -m pytest tests --ignore tests/faults --ignore tests/dispatch/test_sizes.py -m long --stress -q -o faulthandler_timeout=0

lint: setup  ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup  ## Rewrite the source in the project's format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: setup  ## mypy, strict
	$(RUN) -m mypy

docs: setup  ## Fail where a generated part of the docs is stale
	$(RUN) -m cogapp --check --check-fail-msg="run 'make docs-update'" -P README.md docs/*.md

docs-update: setup  ## Generate those parts anew
	$(RUN) -m cogapp -r -P README.md docs/*.md

emitted: setup $(PREBUILT)  ## Write examples/emitted anew, when a kernel or the packaged database has changed
	$(RUN) -m scripts.emitted

bench: setup  ## What a call costs before the kernel runs, as JSON
	$(RUN) scripts/bench/dispatch.py

bench-cold: setup  ## What a fresh process pays before its calls are hits, as JSON
	$(RUN) scripts/bench/cold.py

bench-model: setup  ## What the cost model predicts, and how fast, as JSON
	$(RUN) scripts/bench/model.py

bench-floor: setup  ## How far the best estimates for WORKLOADS=FILE are above the floor of DEVICE, as JSON; ten minutes
	@test -n "$(WORKLOADS)" || { echo "say which layers: make bench-floor WORKLOADS=FILE"; exit 2; }
	$(RUN) scripts/bench/floor.py "$(WORKLOADS)" $(if $(DEVICE),--devices $(DEVICE))

bench-buckets: setup  ## How many sweeps a layer's lengths lead to and what the others lose, as JSON; two minutes
	$(RUN) scripts/bench/buckets.py

bench-noise: setup  ## How a noisy, drifting GPU misleads a sweep, on a simulated one, as JSON; half a minute
	$(RUN) scripts/bench/noise.py

bench-db: setup  ## How the tuning database grows, up to a million trials, as JSON; about ten minutes
	$(RUN) scripts/bench/db.py 10000 100000 1000000

test-triton-versions: $(TESTED_TRITONS:%=test-triton-%)  ## tests/compat and tests/launcher, from the oldest Triton to the newest

# torchaudio comes with asteroid, and its wheels may not load beside a newer torch; nothing here needs it.
.venv-models/.ready: $(READY)
	$(RUN) -m venv --without-pip $(@D)
	$(call behind,$(@D))
	$(RUN) -m pip --python $(@D) install --quiet $(MODELS)
	$(RUN) -m pip --python $(@D) uninstall --quiet --yes torchaudio
	@touch $@

test-models: .venv-models/.ready $(PREBUILT)  ## Published models, accelerated, in the interpreter
	TRITON_INTERPRET=1 .venv-models/bin/python -m pytest -q tests/models/published_models.py

.venv-ray/.ready: $(READY)
	$(RUN) -m venv --without-pip $(@D)
	$(call behind,$(@D))
	$(RUN) -m pip --python $(@D) install --quiet ray
	@touch $@

test-ray: .venv-ray/.ready $(PREBUILT)  ## Sweeps on a Ray cluster of four node processes, one of which is killed
	.venv-ray/bin/python -m pytest -q tests/sweep/test_ray.py

gpu: setup  ## Prove and measure on the GPU here, in ten minutes, into OUT=DIR
	@test -n "$(OUT)" || { echo "say where to: make gpu OUT=DIR"; exit 2; }
	@$(RUN) -m scripts.gpu.run "$(OUT)"

# For scripts/gpu/run.sh on a machine with a GPU, torch and Triton, where nothing can be installed.
offline-bundle: setup  ## What that machine lacks, in offline/: wheels and the packaged database
	rm -rf offline
	$(RUN) -m pip download --quiet --no-deps --dest offline/wheels $(OFFLINE)
	cp $(PREBUILT) $(PREBUILT).sha256 offline/
	@du -sh offline

prebuilt: setup $(OTHER_TRITONS:%=.venv-triton-%/.ready)  ## The packaged database's text, for three Tritons, and of public models; hours
	for python in $(RUN) $(OTHER_TRITONS:%=.venv-triton-%/bin/python); do $$python scripts/build_prebuilt.py || exit 1; done
	$(RUN) scripts/prebuilt_workloads.py
	$(RUN) hatch_build.py

dist: setup  ## Source distribution and wheel, in dist/
	$(RUN) -m build

clean:  ## Remove environments, caches and everything built
	rm -rf .venv .venv-triton-* .venv-models .venv-ray build dist offline .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f tuning_db/prebuilt/*.db tuning_db/prebuilt/*.db.* tuning_db/prebuilt/*.db-journal
	find autoconv tuning_db tests scripts -name __pycache__ -prune -exec rm -rf {} +

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 24

$(READY): pyproject.toml constraints-dev.txt
	@echo "Setting up $(VENV): about two minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[dev]' --constraint constraints-dev.txt
	@touch $@

$(PREBUILT): $(PREBUILT_FROM) | $(READY)
	$(RUN) hatch_build.py

# An environment in front of .venv, which has torch and all else that is not to be installed again.
define behind
$(RUN) -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/behind.pth"
endef

# Another Triton in front of all else that .venv has, so torch is installed but once.
.venv-triton-%/.ready: $(READY)
	$(RUN) -m venv --without-pip $(@D)
	$(RUN) -m pip --python $(@D) install --quiet --no-deps triton==$*
	$(call behind,$(@D))
	@touch $@

.PHONY: $(TESTED_TRITONS:%=test-triton-%)
$(TESTED_TRITONS:%=test-triton-%): test-triton-%: .venv-triton-%/.ready $(PREBUILT)
	.venv-triton-$*/bin/python -c "import triton; assert triton.__version__ == '$*', triton.__version__"
	.venv-triton-$*/bin/python -m pytest tests/compat tests/launcher --stress

.SECONDARY: $(TESTED_TRITONS:%=.venv-triton-%/.ready)
