#!/bin/sh
# Records TRL 1.12's PPOTrainer on tiny models into tests/oracle/recordings/ (`make ppo-oracle`).
set -eu
cd "$(dirname "$0")/../.."
sh benchmarks/trl_side/environment.sh
export OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TRL_EXPERIMENTAL_SILENCE=1
.venv-trl112/bin/python -W ignore tests/oracle/record.py
