# `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint fuzz bench soak kills clean

bin := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian packages, the Python environment, the viewers
	@.ci/setup.sh

demo: setup ## send a sample through a fresh node; DICOM=folder sends yours, EXIT=1 ends by itself
	@exec $(bin)/mrisr-node demo $(if $(DICOM),--dicom "$(DICOM)") $(if $(EXIT),--exit)

up: setup ## run the node for real; settings come from MRISR_* and mrisr.toml
	@exec $(bin)/mrisr-node up

test: setup lint ## check style, types and layers, then run every test
	@# Much of a test is waiting for what it starts, so two at once are nearly twice as fast.
	$(bin)/python -m pytest -n 2 --dist loadfile

lint: setup ## the checks that need no running node
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports

fuzz: setup ## look for what breaks parsers and states, for hours and differently each time
	HYPOTHESIS_PROFILE=fuzz $(bin)/python -m pytest --timeout 0 tests/fuzz \
	  tests/jobs/test_interleavings.py

bench: setup ## run the side-by-side measurements of bench/, but for designs.py and the long ones below
	@for name in geometry quality superres brain ingest gateway survival; do $(bin)/python "bench/$$name.py" || exit 1; done

soak: setup ## 200 series through a whole node while workers are killed; hours
	$(bin)/python bench/soak.py

kills: setup ## 200 kills at random steps, under a load of series; prints what was lost
	$(bin)/python bench/kills.py

clean: ## remove what setup, tests and demo made here; data of `make up` in var/ stays
	@# Run by root, the demo's Orthanc may have its objects outside of this folder.
	-@test ! -x $(bin)/python || $(bin)/python -c "import shutil; \
	  from mrisr_node.node.orthanc import storage_of; from mrisr_node.settings import load_settings; \
	  shutil.rmtree(storage_of(load_settings(data_dir='var/demo')), ignore_errors=True)"
	rm -rf .venv .setup .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	  ohif-config/dist ohif-config/niivue
	rm -rf var/demo *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
