# `make` lists the targets. Everything happens in .venv; the second time takes seconds.
#
# TORCH_INDEX: index to take torch from instead of pip's own settings, such as
#   make demo TORCH_INDEX=URL
# PYTHON: interpreter that .venv is made with (ROS 2 wheels exist for 3.11 here).
# SCENES: how many scenes `make pick` tries
# WEIGHTS: another folder of weights that `make test-vllm` serves
# VENV, DISTRO: another environment, with another ROS 2: VENV=.venv-kilted DISTRO=kilted

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
TORCH_INDEX ?=
HOURS ?= 8
SCENES ?= 200
RESULTS ?= training/experiments/results
WEIGHTS ?=
VENV := .venv
DISTRO := jazzy
PY := $(VENV)/bin/python

# The shell is a robot developer's: another ROS 2 is sourced, another middleware, domain or discovery server chosen.
# Nothing of it reaches what make starts; examples/closed.py has the same names for processes without make.
SOURCED := $(subst :, ,$(AMENT_PREFIX_PATH):$(COLCON_PREFIX_PATH)) /opt/ros $(CURDIR)
empty :=
LIBRARIES := $(filter-out $(addsuffix /%,$(SOURCED)),$(subst :, ,$(LD_LIBRARY_PATH)))
unexport $(filter ROS_% RMW_% RCL_% RCUTILS_% FASTDDS_% FASTRTPS_% CYCLONEDDS_% ZENOH_% AMENT_% COLCON_% \
  CMAKE_PREFIX_PATH _ROS_WHEELS_% BASH_ENV,$(.VARIABLES))
# PYTHONUNBUFFERED and PYTHONDONTWRITEBYTECODE do no harm.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT PYTHONSAFEPATH PYTHONIOENCODING
export LD_LIBRARY_PATH := $(subst $(empty) $(empty),:,$(LIBRARIES))
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export OMP_NUM_THREADS ?= 2

PIP := $(PY) -m pip install --disable-pip-version-check --progress-bar on
RUN := $(VENV)/.run-stamp
ROS := $(VENV)/.ros-stamp
TEST := $(VENV)/.test-stamp
DEV := $(VENV)/.dev-stamp
TRAIN := $(VENV)/.train-stamp
MESSAGES := $(VENV)/.messages-stamp
COMMAND := $(VENV)/bin/segzero
# Test modules by what they import: ROS 2; or nothing but the core and the command line, which are quick. Three are
# neither: they run the demo, colcon and make.
ROS_IMPORTS := rclpy|[a-z_]+_(msgs|srvs)|segzero_ros\.ros|tests\.robot
HEAVY_IMPORTS := torch|transformers|safetensors|xgrammar|llguidance|training|tests import|segzero_ros import|segzero_ros\.(models|pipeline)
# Tests run in as many processes as there are cores, one thread each. A file's tests stay together, with what they start,
# and every process claims a ROS domain of its own.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile
WITH_MODEL := test_the_embedded_model_answers
WHOLE := tests/test_demo.py tests/test_package.py tests/test_make.py
ROS_TESTS = $(filter-out $(WHOLE),$(shell grep -lE '^ *(from|import) ($(ROS_IMPORTS))' tests/test_*.py))
CORE_TESTS = $(filter-out $(WHOLE),$(shell grep -LE '^ *(from|import) ($(ROS_IMPORTS)|$(HEAVY_IMPORTS))' tests/test_*.py))

.PHONY: frames help venv setup interfaces demo pick check test test-system test-long test-ros test-kilted test-pythons test-vllm \
        vllm-environment lint types build train-demo train-demo-smoke reproduce reproduce-smoke report evaluate clean

test test-system test-long test-ros: export OMP_NUM_THREADS := 1

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv: $(ROS) $(COMMAND)  ## .venv with all that the node and the command line need

setup: $(DEV) $(TRAIN) $(MESSAGES) $(COMMAND)  ## venv, and what tests and training need

$(PY):
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"Python 3.11 is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements/run.txt requirements/constraints.txt | $(PY)
	@echo "== installing torch and the models' libraries"
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) $$(grep -E '^torch==' requirements/run.txt))
	$(PIP) -r requirements/run.txt
	@touch $@

$(COMMAND): setup.py $(RUN)
	$(PIP) --no-deps --editable .
	@touch $@

$(ROS): requirements/ros-$(DISTRO).txt $(RUN)
	@echo "== installing ROS 2 $(DISTRO)"
	$(PIP) -r requirements/ros-$(DISTRO).txt
	@touch $@

$(TRAIN): requirements/train.txt $(RUN)
	$(PIP) -r requirements/train.txt
	@touch $@

$(TEST): requirements/test.txt requirements/grammar.txt $(ROS)
	$(PIP) -r requirements/test.txt $$(grep -E '^pybullet==' requirements/train.txt)
	$(PIP) --no-deps -r requirements/grammar.txt
	@touch $@

$(DEV): requirements/dev.txt requirements/test.txt requirements/grammar.txt $(ROS) $(TRAIN)
	$(PIP) -r requirements/dev.txt
	$(PIP) --no-deps -r requirements/grammar.txt
	@touch $@

interfaces: $(MESSAGES)  ## segzero_msgs built into .venv

$(MESSAGES): $(ROS) tools/ros_from_pypi.py $(shell find msg -type f)
	@echo "== building the messages"
	$(PY) tools/ros_from_pypi.py
	@touch $@

demo: $(MESSAGES) $(COMMAND)  ## A camera stream and six instructions through the real node; pictures in out/
	$(PY) examples/demo.py

pick: $(MESSAGES) $(COMMAND) $(TEST)  ## Picks in simulation by the real node's 3D answers, 200 scenes; a stopped run goes on (40 minutes; SCENES=20 for a look)
	$(PY) examples/pick_in_sim.py --resume --scenes $(SCENES) --size 1280x720 960x960

check: lint types $(COMMAND)  ## Lint, types and the tests that need neither ROS 2 nor a model, in half a minute
	$(PY) -m pytest -q -m "not long and not gpu" $(CORE_TESTS) --deselect tests/test_command_line.py::$(WITH_MODEL)

test: setup lint types  ## Lint, types and all tests that are not long: the demo and a few of the node's are among them
	@$(PY) -c 'from importlib.metadata import version; print("rclpy", version("ros-rclpy"))'
	$(PY) -m pytest -m "not long and not system and not gpu and not vllm" $(PARALLEL)

test-system: setup  ## The node in processes of its own, all that can happen to it, and the package as colcon builds it
	$(PY) -m pytest -m "system and not long and not gpu and not vllm" $(PARALLEL)

test-long: setup  ## What trains: every configuration in small, resumed runs, TRL's loss beside ours, the experiment's smoke run
	$(PY) -m pytest -m "long and not gpu and not vllm" $(PARALLEL)

test-ros: $(MESSAGES) $(COMMAND) $(TEST)
	@$(PY) -c 'from importlib.metadata import version; print("ROS 2 $(DISTRO), rclpy", version("ros-rclpy"))'
	$(PY) -m pytest -m "not long and not gpu and not vllm" $(PARALLEL) $(ROS_TESTS)

test-kilted:  ## The node's tests on ROS 2 Kilted, in .venv-kilted
	$(MAKE) test-ros VENV=.venv-kilted DISTRO=kilted

test-pythons:  ## The core's and the command line's tests on Python 3.10 and 3.12, where they are found; with TORCH_INDEX also a model's
	$(PYTHON) tools/test_pythons.py $(CORE_TESTS) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

test-vllm: setup vllm-environment  ## The embedded reasoner in a real vLLM on the CPU, over HTTP; its environment, .venv-vllm, wants a CPU build of torch
	SEGZERO_VLLM_WEIGHTS=$(WEIGHTS) $(PY) -m pytest -m "vllm" tests/test_vllm.py

vllm-environment:
	$(PYTHON) tools/vllm_environment.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

lint: $(DEV)  ## ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(DEV) $(MESSAGES)  ## mypy
	$(PY) -m mypy

build: setup  ## Plain colcon build in a fresh workspace, build/workspace
	rm -rf build/workspace && mkdir -p build/workspace/src
	ln -s $(CURDIR) build/workspace/src/segzero_ros
	source $(VENV)/setup.bash && export PATH=$(CURDIR)/$(VENV)/bin:$$PATH && cd build/workspace && colcon build

train-demo: $(TRAIN)  ## The embedded models from nothing: data, reasoner, segmenter, evaluation (4 hours)
	$(PY) -m training.embedded.train_demo

train-demo-smoke: $(TRAIN)  ## The same in two minutes, for the sake of the code
	$(PY) -m training.embedded.train_demo --smoke

reproduce: $(TRAIN)  ## The experiment in small: every run that has no result yet (8 hours on two cores; HOURS=2 for a sitting, RESULTS=DIR to begin anew)
	$(PY) -m training.experiments.reproduce --hours $(HOURS) --results $(RESULTS)/tabletop/runs
	$(PY) -m training.experiments.report --root build/tabletop --results $(RESULTS)/tabletop/runs --out $(RESULTS)

reproduce-smoke: $(TRAIN)  ## The same with two updates and few items, in minutes
	$(PY) -m training.experiments.reproduce --smoke --work build/reproduce-smoke --results build/reproduce-smoke/results
	$(PY) -m training.experiments.report --smoke --root build/tabletop --results build/reproduce-smoke/results --out build/reproduce-smoke

frames: $(MESSAGES) $(COMMAND)  ## Camera frames that arrive, and the idle node's cost: the tables of docs/frames.md (20 minutes)
	$(PY) tools/frames.py --seconds 3 --page docs/frames.md

report: $(TRAIN)  ## The experiment's report from its results
	$(PY) -m training.experiments.report

evaluate: $(TRAIN)  ## The embedded models on the tabletop's test split, as JSON (ten minutes)
	$(PY) -m training.evaluate --profile demo --data tabletop:test --n 2400 --json

clean:  ## Everything that make has made, except training results
	rm -rf $(VENV) .venv-kilted .venv-3.10 .venv-3.12 .venv-vllm build/workspace install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis
