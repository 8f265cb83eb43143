#!/bin/sh
# Builds .venv-trl112, the environment with the last TRL that had a PPOTrainer, beside .venv. A second call is a no-op.
#
#   sh benchmarks/trl_side/environment.sh
#
#   PYTHON  the interpreter that makes it (default: python3)
#
# Every other package has the version of constraints.txt, so that what is compared is TRL alone.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-trl112
wanted="trl==1.12.0 $(cksum < constraints.txt)"
[ "$(cat "$venv/.built" 2>/dev/null || true)" = "$wanted" ] && exit 0

echo "building $venv (a few minutes)" >&2
"${PYTHON:-python3}" -m venv --clear "$venv"
echo '*' > "$venv/.gitignore" # of git and of every tool that follows it
grep -v '^trl==' constraints.txt > "$venv/constraints.txt"
pip="$venv/bin/python -m pip --disable-pip-version-check install --quiet"
# torch goes first, so that whatever build pip is pointed at (CPU, CUDA) is the only one fetched.
$pip "$(grep '^torch==' constraints.txt)"
$pip -c "$venv/constraints.txt" trl==1.12.0 accelerate datasets gguf peft safetensors transformers
echo "$wanted" > "$venv/.built"
