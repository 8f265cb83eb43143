#!/bin/sh
# Writes v0_1_0.zip: folders of a run by the code of lit-instruct 0.1.0, which today's code must read.
#
#   sh tests/old_folders/record.sh      (from a checkout with its history and a .venv)
#
# 0.1.0 never had a tag. f26d264 is the last commit before options were renamed, with all that CHANGELOG lists for 0.1.0.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/code" "$work/folder"
git -C "$root" archive f26d264 | tar x -C "$work/code"
cd "$work/folder"
export PYTHONPATH="$work/code" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 LIT_INSTRUCT_CACHE="$work/cache"

"$python" - <<'PYTHON'
import json

from tests.lit_instruct.stages.helpers import comparisons, demonstrations, prompts
from tests.tiny import tiny_llama

sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
tiny_llama("base", num_attention_heads=2, num_key_value_heads=1, **sizes)
for name, rows in (("demonstrations", demonstrations(8)), ("comparisons", comparisons(8)), ("prompts", prompts(16))):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
PYTHON

train() { # stage, data, then its options; 0.1.0's names
  stage=$1 data=$2
  shift 2
  "$python" -m lit_instruct.cli "$stage" fit --data.path="$data.jsonl" --data.validation_path="$data.jsonl" \
    --model.lora.r=2 --model.lora.top_layers=1 --model.dtype=float32 \
    --trainer.accelerator=cpu --trainer.devices=1 --trainer.enable_progress_bar=false "$@"
}
ppo() {
  train ppo prompts --data.validation_limit=4 --data.batch_size=8 --model.ppo.minibatches=2 --model.ppo.kl_coef=0.1 \
    --model.sampling.max_new_tokens=4 --trainer.val_check_interval=2 --trainer.check_val_every_n_epoch=null "$@"
}
train sft demonstrations --run=run --model.base=base --data.batch_size=4 --trainer.max_epochs=1
train rm comparisons --run=run --data.batch_size=4 --trainer.max_epochs=1
ppo --run=run --model.iterations=2
cp -r run whole
ppo --run=whole --model.iterations=4 --ckpt_path=last
cp whole/ppo/logs/metrics.csv continued.csv # what resuming must reproduce
rm -r whole
find run -name 'events*' -delete
find run -name best.ckpt -delete
rm -f "$root/tests/old_folders/v0_1_0.zip"
"$python" -c 'import shutil, sys; shutil.make_archive(sys.argv[1], "zip", ".")' "$root/tests/old_folders/v0_1_0"
