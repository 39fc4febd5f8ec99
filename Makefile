# Each target sets up what it needs by itself, below build/; what is there already stays.
# With COMFYUI_PATH in the environment, that ComfyUI is used instead of a downloaded one.

PYTHON ?= python3

set_up := $(PYTHON) tests/comfyui/install.py
python := build/venv/bin/python
# What is in lab/ finds there what it imports, and tests/comfyui, which starts ComfyUI.
in_lab := cd lab && PYTHONPATH=../tests ../$(python)
newest := 0.3.75
oldest := 0.3.52
# These tests are the same on every release of ComfyUI: the arithmetic, the playground's world, the
# laboratory, and how the pack is set up and packed.
of_no_release := $(addprefix tests/,comfyui guiders/push playground lab)

.PHONY: help demo real test test-push lint cards templates texts networks models card playground \
	font choosing bench bench-speed bench-negative bench-quality lab clean

help:
	@echo "make demo            draw emoji with and without guidance, on a CPU, in a minute or two"
	@echo "make real            run the templates on the models of the ComfyUI in COMFYUI_PATH, with the"
	@echo "                     push and without: images, time and memory; ARGS=\"--help\" says more"
	@echo "make test            check style and run all tests, on ComfyUI $(newest) and $(oldest)"
	@echo "make test-push       test the arithmetic alone, in seconds, without ComfyUI"
	@echo "make lint            check style only"
	@echo
	@echo "make cards           draw the images of the README and of the workflows again"
	@echo "make choosing        draw the figures of docs/choosing.md again"
	@echo "make templates       write the graphs in workflows/ from their descriptions in lab/templates"
	@echo "make texts           write the help pages and the README's tables from the nodes and docs/help"
	@echo "make networks        write what the Weaken nodes can do to which model, then make texts; needs"
	@echo "                     the COMFYUI_PATH of a release that loads all of them"
	@echo "make models          train the tiny models again, then make card (hours)"
	@echo "make card            measure the tiny models; writes README.md and EMOJI.md in lab/assets"
	@echo "make playground      train the models of the playground again (minutes)"
	@echo "make font            cut the pack's fonts from the system's fonts again"
	@echo
	@echo "make bench           run all three benchmarks (hours):"
	@echo "make bench-speed     measure time and memory"
	@echo "make bench-negative  compare negative prompts, and scales with shares of the distance"
	@echo "make bench-quality   compare all ways to guide; writes docs/results.md"
	@echo "make lab RUN=...     run a module of lab/ with its arguments, such as"
	@echo "                     RUN=\"bench.speed --case base\""
	@echo
	@echo "make clean           delete what was set up (build/)"
	@echo
	@echo "PYTHON=...           the Python to set up with (default: $(PYTHON))"
	@echo "COMFYUI_PATH=...     run on this ComfyUI instead of a downloaded one"

demo:
	@$(set_up)
	@$(in_lab) -m demo

real:
	@$(set_up)
	@$(in_lab) -m real $(ARGS)

cards:
	@$(set_up) --newer-page
	@$(in_lab) -m demo --readme

choosing:
	@$(set_up)
	@$(in_lab) -m choosing

# With one thread they make the same weights and the same figures again.
models card playground: export OMP_NUM_THREADS = 1
models:
	@$(set_up)
	$(in_lab) -m digits.train
	$(in_lab) -m emoji.train
	@$(MAKE) card

card:
	@$(set_up)
	$(in_lab) -m digits.evaluate
	$(in_lab) -m emoji.evaluate

playground:
	@$(set_up)
	$(python) -m playground.training

templates:
	@$(set_up)
	@$(in_lab) -m templates

texts:
	@$(set_up)
	@$(in_lab) -m texts

networks:
	@$(set_up)
	cd tests && ../$(python) -m support.network_table
	@$(MAKE) texts

font:
	@$(set_up)
	$(in_lab) -m fonts.subset

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

lab:
	@$(set_up)
	$(in_lab) -m $(RUN)

lint:
	@$(set_up)
	$(python) -m ruff check
	$(python) -m ruff format --check

# Tiny models gain little from a second core, and lose much where it is a busy one.
test: export OMP_NUM_THREADS ?= 1
ifdef COMFYUI_PATH
test: lint
	@$(set_up) --newer-page
	$(python) -m pytest
else
test: lint
	@$(set_up) --comfyui $(newest) --comfyui $(oldest) --newer-page
# Side by side, in three rows of about the same length: what waits for a server or a browser leaves its
# core to the others. What those in the background say comes at the end.
	@run() { COMFYUI_PATH="$(CURDIR)/build/comfyui-$$1" $(python) -m pytest -m "$$2" $$3 \
		-p no:cacheprovider; }; \
	of_a_release="$(of_no_release:%=--ignore=%)"; \
	run $(oldest) "not server" "$$of_a_release" > build/test-$(oldest).log 2>&1 & on_oldest=$$!; \
	{ run $(newest) server; server=$$?; run $(newest) "not server" "$(of_no_release)" && \
		exit $$server; } > build/test-server.log 2>&1 & on_server=$$!; \
	run $(newest) "not server" "$$of_a_release"; newest=$$?; \
	wait $$on_server; server=$$?; wait $$on_oldest; oldest=$$?; \
	echo "On a server of ComfyUI $(newest), and what no release changes:"; \
	cat build/test-server.log; \
	echo "On ComfyUI $(oldest):"; cat build/test-$(oldest).log; \
	exit $$((newest || server || oldest))
endif

# Any Python with torch and pytest will do.
test-push:
	@$(or $(wildcard $(python)),$(PYTHON)) -m pytest --confcutdir tests/guiders/push tests/guiders/push

clean:
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
