# make demo    the whole road on sample data, in .venv
# make test    the tests; make test-all with the slow ones; make check lints and types
# make bench   Argus beside its peers, ten minutes on two cores; BENCH='--count 5000 …' for more
PYTHON ?= python3
RUN := .venv/bin/python
SUMMARY := import json; run = json.load(open("runs/evaluate/metrics.json")); counts = run["counts"]; \
	print("demo ok: accuracy {:.4f}, {} images, {} failed, report {}".format(run["accuracy"], \
	counts["read"], counts["failed"], "runs/evaluate/report/index.html"))
.PHONY: setup demo check test test-all bench lock

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(RUN) -m pip install --quiet uv
	VIRTUAL_ENV=.venv $(RUN) -m uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(RUN) -m jobs.make_samples
	$(RUN) -m jobs.train_classifier
	$(RUN) -m jobs.classify
	$(RUN) -m jobs.evaluate
	@$(RUN) -c '$(SUMMARY)'

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/basedpyright

test: setup
	$(RUN) -m pytest -q -m "not slow and not gpu"

test-all: setup
	$(RUN) -m pytest -q

# Daft wants an older pyarrow than Argus: an environment of its own
.venv/daft/.ready: .venv/.ready
	$(RUN) -m uv venv --quiet --clear --python $(RUN) .venv/daft
	$(RUN) -m uv pip install --quiet --compile-bytecode --python .venv/daft/bin/python daft \
		jaxtyping nncf openvino safetensors simplejpeg torch torchvision
	touch $@

bench: .venv/daft/.ready
	$(RUN) -m tests.benchmarks.peers $(BENCH)

# three equal signs keep pip from taking a local build such as 2.15.0+cpu for the pinned torch
lock:
	VIRTUAL_ENV=.venv $(RUN) -m uv pip compile pyproject.toml --extra dev --universal --upgrade \
		--quiet --no-header --no-annotate -o constraints.txt
	sed -i -E 's/^(torch|torchvision)==/\1===/' constraints.txt
