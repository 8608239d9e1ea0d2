# Everything starts from a bare machine with Python 3.11, pip and make.
.DEFAULT_GOAL := help
.PHONY: help env demo test lint lock bench clean
export UV_COMPILE_BYTECODE = 1
PY = .venv/bin/python
# The lock that .venv is made from: dev, or gpu, airflow, kubeflow (each without the test tools).
SET ?= dev
STAMP = .venv/.installed-$(SET)
PEERS = .venv-peers/.installed
AUDIT = .venv-audit/.installed
MUTMUT = .uv/mutmut/.installed

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

lint: $(STAMP)  ## ruff, mypy and the layers of imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo --no-cache

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
	for s in mutants audit; do $(COMPILE) $(LOCKFLAGS) requirements/$$s.in -o requirements/$$s.lock || exit 1; done
	echo uv | $(COMPILE) $(LOCKFLAGS) - -o requirements/uv.txt

clean:  ## remove what runs wrote and the environments
	rm -rf runs .venv .venv-airflow .venv-peers .venv-audit .flink .uv

.PHONY: mutants
mutants: $(STAMP) $(MUTMUT)  ## change the code in small ways and tell which no test notices (hours; ARGS=records for a group)
	@nice $(PY) tests/mutants.py $(ARGS)

$(MUTMUT): requirements/mutants.lock | $(STAMP)
	@.uv/bin/uv pip install --quiet --python $(PY) --target $(@D) --no-deps --require-hashes -r $<
	@touch $@

.PHONY: sbom audit
SHIPPED = base gpu airflow kubeflow
sbom: $(STAMP) $(AUDIT)  ## write dist/*.cdx.json, what the locks install (CycloneDX), and docs/licences.md
	@mkdir -p dist
	@for s in $(SHIPPED); do .venv-audit/bin/python -W ignore -m cyclonedx_py requirements --output-reproducible \
	  --pyproject pyproject.toml -o dist/$$s.cdx.json requirements/$$s.lock || exit 1; done
	@{ echo "# Licences of what base.lock installs"; echo; \
	  echo "Written by \`make sbom\`: as the packages name them, and UNKNOWN where they name none."; echo; \
	  .venv-audit/bin/pip-licenses --python=$(PY) --from=mixed --no-version --order=license --format=markdown \
	  --packages $$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' requirements/base.lock) | grep '^|.[^ ]'; } > dist/licences.md
	@mv dist/licences.md docs/licences.md
	@echo "dist/: $(SHIPPED:%=%.cdx.json); docs/licences.md"

# Strict: where the service of advisories cannot be asked, that is an error, and not a list without findings.
audit: $(AUDIT)  ## ask for known vulnerabilities of what the locks install
	@for s in $(SHIPPED); do .venv-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/$$s.lock || exit 1; done

$(AUDIT): requirements/audit.lock | $(STAMP)
	@test -x .venv-audit/bin/python || .uv/bin/uv venv --quiet --python $(PY) .venv-audit
	@.uv/bin/uv pip sync --quiet --python .venv-audit/bin/python --require-hashes $<
	@touch $@

.PHONY: flink
flink: $(STAMP)  ## start a Flink cluster on this machine (.flink/) and say how to use and stop it
	@$(PY) -m benchmarks.flink_cluster start

.PHONY: airflow airflow-env
AIRFLOW = .venv-airflow/.installed
airflow: $(STAMP) $(AIRFLOW)  ## run the pipeline on its schedule in a local Airflow (ARGS="--preset=... --set ...")
	@.venv-airflow/bin/python -m pipeline.airflow.local_scheduler $(ARGS)

airflow-env: $(AIRFLOW)

$(AIRFLOW): requirements/airflow.lock requirements/bootstrap.sh pyproject.toml | $(STAMP)
	@test -x .venv-airflow/bin/python || .uv/bin/uv venv --quiet --python .venv/bin/python .venv-airflow
	@echo "Installing $< into .venv-airflow (0.3 GB) ..."
	@.uv/bin/uv pip sync --quiet --python .venv-airflow/bin/python --require-hashes --compile-bytecode $<
	@.uv/bin/uv pip install --quiet --python .venv-airflow/bin/python --no-deps --no-build-isolation -e .
	@touch $@
