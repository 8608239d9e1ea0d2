# Everything starts from a bare machine with Python 3.11, pip and make.
.DEFAULT_GOAL := help
.PHONY: help env demo test lint lock bench clean
export UV_COMPILE_BYTECODE = 1
PY = .venv/bin/python
# The lock that .venv is made from: dev, or gpu, airflow, kubeflow (each without the test tools).
SET ?= dev
STAMP = .venv/.installed-$(SET)
PEERS = .venv-peers/.installed

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */make \1\t/' | expand -t 14

env: $(STAMP)  ## make .venv from the hashed lock

$(STAMP): requirements/$(SET).lock requirements/bootstrap.sh requirements/uv.txt pyproject.toml pipeline/compat/tfx_bsl_sql_util.py pipeline/compat/tfx_cli_main.py
	@requirements/bootstrap.sh $(SET)
	@rm -f .venv/.installed-*
	@touch $@

demo: $(STAMP)  ## run the whole pipeline on handwritten digits, serve the model, predict
	@$(PY) -m pipeline.demo

test: lint  ## lint, then every test
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Each writes its table into docs/speed.md.
STAGES = input ingestion transform step evaluation pipeline serving growth
bench: $(STAGES:%=bench-%)  ## measure every stage against its peers (an hour and a half; make bench-STAGE for one)

.PHONY: $(STAGES:%=bench-%) peers-env
bench-input: $(STAMP) $(PEERS)
	$(PY) -m benchmarks.training_input
bench-ingestion: $(STAMP)
	$(PY) -m benchmarks.ingestion
bench-transform: $(STAMP)
	$(PY) -m benchmarks.transform
bench-step: $(STAMP) $(PEERS)
	$(PY) -m benchmarks.training_step
bench-evaluation: $(STAMP)
	$(PY) -m benchmarks.evaluation
bench-pipeline: $(STAMP)
	$(PY) -m benchmarks.pipeline_overhead
bench-serving: $(STAMP)
	$(PY) -m benchmarks.serving
bench-growth: $(STAMP)
	$(PY) -m benchmarks.growth

peers-env: $(PEERS)  ## make .venv-peers, the peers that benchmarks measure against (8 GB)

$(PEERS): requirements/peers.lock requirements/bootstrap.sh | $(STAMP)
	@test -x .venv-peers/bin/python || .uv/bin/uv venv --quiet --python .venv/bin/python .venv-peers
	@echo "Installing $< into .venv-peers (8 GB) ..."
	@.uv/bin/uv pip sync --quiet --python .venv-peers/bin/python --require-hashes --compile-bytecode $<
	@touch $@

# Locks hold hashes and no addresses; overrides.txt is explained in BUILD.md.
COMPILE = .uv/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28
lock: $(STAMP)  ## write the locks anew (LOCKFLAGS=--upgrade takes newer releases)
	for s in base dev airflow kubeflow; do \
	  $(COMPILE) $(LOCKFLAGS) --override requirements/overrides.txt requirements/$$s.in -o requirements/$$s.lock || exit 1; done
	$(COMPILE) $(LOCKFLAGS) --override requirements/overrides-peers.txt requirements/peers.in -o requirements/peers.lock
	sed 's/^tensorflow==/tensorflow[and-cuda]==/' requirements/overrides.txt > .uv/overrides-gpu.txt
	$(COMPILE) $(LOCKFLAGS) --override .uv/overrides-gpu.txt requirements/gpu.in -o requirements/gpu.lock
	echo uv | $(COMPILE) $(LOCKFLAGS) - -o requirements/uv.txt

clean:  ## remove what runs wrote and the environments
	rm -rf runs .venv .venv-airflow .venv-peers .flink .uv

.PHONY: flink
flink: $(STAMP)  ## start a Flink cluster on this machine (.flink/) and say how to use and stop it
	@$(PY) -m benchmarks.flink_cluster start

.PHONY: airflow airflow-env
AIRFLOW = .venv-airflow/.installed
airflow: $(STAMP) $(AIRFLOW)  ## run the pipeline on its schedule in a local Airflow (ARGS="--preset=... --set ...")
	@.venv-airflow/bin/python -m pipeline.airflow_local $(ARGS)

airflow-env: $(AIRFLOW)

$(AIRFLOW): requirements/airflow.lock requirements/bootstrap.sh pyproject.toml | $(STAMP)
	@test -x .venv-airflow/bin/python || .uv/bin/uv venv --quiet --python .venv/bin/python .venv-airflow
	@echo "Installing $< into .venv-airflow (0.3 GB) ..."
	@.uv/bin/uv pip sync --quiet --python .venv-airflow/bin/python --require-hashes --compile-bytecode $<
	@.uv/bin/uv pip install --quiet --python .venv-airflow/bin/python --no-deps --no-build-isolation -e .
	@touch $@
