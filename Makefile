# Each target sets up what it needs by itself, below build/; what is there already stays.
# With COMFYUI_PATH in the environment, that ComfyUI is used instead of a downloaded one.

PYTHON ?= python3

set_up := $(PYTHON) tests/comfyui/install.py
python := build/venv/bin/python
# The laboratory runs on the engine of the tests.
in_lab := cd lab && PYTHONPATH=../tests ../$(python)
newest := 0.3.75
oldest := 0.3.52

.PHONY: help demo test models card playground font texts bench bench-speed bench-negative \
	bench-quality lint clean

help:
	@echo "make demo     see a bad version at work: a real ComfyUI, tiny models, no GPU"
	@echo "make test     check style and run all tests, on ComfyUI $(newest) and $(oldest)"
	@echo "make models   train the tiny models of demo and tests anew"
	@echo "make card     measure the tiny models, and write lab/assets/README.md and EMOJI.md"
	@echo "make font     take the letters of the pack's drawings out of the system's fonts anew"
	@echo "make texts    write the help pages and README's tables from the nodes' texts and docs/help"
	@echo "make playground  train the models of the playground anew, a few minutes"
	@echo "make bench    measure guidance: bench-speed is its part on time and memory,"
	@echo "              bench-negative on negative prompts, and on one share for all bad versions,"
	@echo "              bench-quality on how good pictures become; it writes docs/results.md (hours)"
	@echo "make lint     check style only"
	@echo "make clean    delete what was set up (build/)"
	@echo
	@echo "PYTHON=...        the Python to set up with (default: $(PYTHON))"
	@echo "COMFYUI_PATH=...  a ComfyUI of your own to run on"

demo:
	@$(set_up)
	@$(in_lab) -m demo

# With one thread they make the same weights and the same figures again.
models card: export OMP_NUM_THREADS = 1
models:
	@$(set_up)
	$(in_lab) -m digits.train
	$(in_lab) -m emoji.train
	@$(MAKE) card

card:
	@$(set_up)
	$(in_lab) -m digits.evaluate
	$(in_lab) -m emoji.evaluate

font:
	@$(set_up)
	$(in_lab) -m fonts.subset

texts:
	@$(set_up)
	@$(in_lab) -m texts

# With one thread it makes the same weights again.
playground: export OMP_NUM_THREADS = 1
playground:
	@$(set_up)
	$(python) -m playground.training

bench: bench-speed bench-negative bench-quality

bench-speed:
	@$(set_up)
	$(in_lab) -m bench.speed

bench-negative:
	@$(set_up)
	$(in_lab) -m bench.negative

bench-quality:
	@$(set_up)
	$(in_lab) -m bench.quality

lint:
	@$(set_up)
	$(python) -m ruff check
	$(python) -m ruff format --check

# Tiny models gain little from a second core, and lose much where it is a busy one.
test: export OMP_NUM_THREADS ?= 1
ifdef COMFYUI_PATH
test: lint
	$(python) -m pytest
else
test: lint
	@$(set_up) --comfyui $(newest) --comfyui $(oldest)
# Side by side, for each has one core to itself. What the oldest release says comes at the end.
	@COMFYUI_PATH="$(CURDIR)/build/comfyui-$(oldest)" $(python) -m pytest -m "not server" \
		-p no:cacheprovider > build/test-$(oldest).log 2>&1 & on_oldest=$$!; \
	COMFYUI_PATH="$(CURDIR)/build/comfyui-$(newest)" $(python) -m pytest; newest=$$?; \
	wait $$on_oldest; oldest=$$?; \
	echo "On ComfyUI $(oldest):"; cat build/test-$(oldest).log; \
	exit $$((newest || oldest))
endif

clean:
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
