"""Wrong options get one sentence before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lit_instruct.cli import main
from lit_instruct.command_line import check, stored
from lit_instruct.command_line.check import answered
from lit_instruct.errors import UserError

ROOT = Path(__file__).parents[3]
DATA = "--data.path=recipes/demo/data/prompts_train.jsonl"
WRONG = [
    ("ppo fit --model.kl.coff=1", "--model.kl.coff: ppo fit has no such option; did you mean --model.kl.coef?"),
    ("ppo fit --model.ppo.kl_coff=1", "--model.ppo.kl_coff: ppo fit has no such option; did you mean --model.kl.coef?"),
    ("sft fit --model.lora.rank=4", "--model.lora.rank: sft fit has no such option"),
    ("sft fit --model.lora.top_layer=4", "did you mean --model.lora.top_layers?"),
    ("sft fit --learning_rate=1", "did you mean --model.optimizer.learning_rate?"),
    ("rm fit --data.batchsize 4", "did you mean --data.batch_size?"),
    ("rm validate --trainer.device=1", "did you mean --trainer.devices?"),
    ("sft fit model.lora.r=4", "model.lora.r=4: options begin with two hyphens; write --model.lora.r=4"),
    ("sft fit rows.jsonl", "rows.jsonl: sft fit takes options only"),
    ("sft fit --data.path", "--data.path: give a value, as --data.path=PATH"),
    ("sft fit --model.lora.r --data.path=x", "--model.lora.r: give a value, as --model.lora.r=R"),
    ("sft fit", "sft fit: --data.path is missing; give --data.path=PATH, or a --config with it"),
    ("sft", "sft: say what to do, as `lit-instruct sft fit`; it has fit, validate, test"),
    ("sft fitt", "sft fitt: sft has fit, validate, test; write `lit-instruct sft fit`"),
    ("sft --data.path=x fit", "--data.path=x: options follow the subcommand"),
    ("sft fit --config=recipes/dmo/sft.yaml", "(no recipe dmo); did you mean recipes/demo/sft.yaml?"),
    ("sft fit --config=recipes/demo/sftt.yaml", "no such file; did you mean recipes/demo/sft.yaml?"),
    (f"ppo fit {DATA} --model.iterations=many", "--model.iterations=many: must be a whole number"),
    (f"ppo fit {DATA} --model.lora.r=many", "--model.lora.r=many: must be a whole number"),
    (f"ppo fit {DATA} --model.kl.estimator=k9", "--model.kl.estimator=k9: must be one of k1, k2 or k3"),
    (f"ppo fit {DATA} --model.kl.target=big", "--model.kl.target=big: must be a number or null"),
    (f"ppo fit {DATA} --model.objective.whiten_advantages=maybe", "=maybe: must be true or false"),
    (f"ppo fit {DATA} --trainer.max_epochs=ten", "--trainer.max_epochs=ten: must be a whole number or null"),
    (f"ppo fit {DATA} --trainer.precision=17-mixed", "--trainer.precision=17-mixed: must be one of 64, 32, 16, "),
    ("eval --runn=x", "--runn: eval has no such option; did you mean --run?"),
    ("sample --run=x --data.path=x --out=x --kk=2", "--kk: sample has no such option"),
    ("sample --run=x --out=x", "sample: --data.path is missing"),
    ("chat --temprature=1", "did you mean --temperature?"),
    ("chat --temperature=hot", "--temperature=hot: must be a number"),
    ("export --run=x --to=y --dtype=fp8", "--dtype=fp8: must be one of auto, fp32, bf16 or fp16"),
    ("export --run=x --to=y --merg", "--merg: export has no such option; did you mean --merge?"),
    ("rm score --run=x --data.path=x --outt=x", "--outt: rm score has no such option; did you mean --out?"),
    ("data inspect x.jsonl --examples=two", "--examples=two: must be a whole number"),
    ("plan --config=recipes/demo/ppo.yaml --model.kl.coff=1", "did you mean --model.kl.coef?"),
    ("plan --config=recipes/demo/ppo.yaml --rows=many", "--rows=many: must be a whole number"),
    ("ppt fit", "unknown command 'ppt'; did you mean ppo?"),
]


CONFIGS = [
    ("model: 1", "c.yaml:1: model must be a group of options; write each below it, as name: value"),
    ("seed_everything: 1\ndata: 5", "c.yaml:2: data must be a group of options"),
    ("trainer: []", "c.yaml:1: trainer must be a group of options"),
    ("model: {lora: 7}", "c.yaml:1: model.lora must be a group of options"),
    ("model: {optimizer: true}", "c.yaml:1: model.optimizer must be a group of options"),
    ("model:\n  base:", "c.yaml:2: model.base is empty; give it a value, or leave the line out"),
    ("data: {batch_size: null}", "c.yaml:1: data.batch_size is empty"),
    ("model: {dtype: ~}", "c.yaml:1: model.dtype is empty"),
    ("model: {lora: {r: }}", "c.yaml:1: model.lora.r is empty"),
]


@pytest.mark.parametrize(("text", "said"), CONFIGS, ids=[text for text, _ in CONFIGS])
@pytest.mark.parametrize("last", [True, False])
def test_a_value_where_a_group_belongs_and_an_empty_value(tmp_path: Path, text: str, said: str, last: bool) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    words = [DATA, f"--config={tmp_path}/c.yaml"]
    with pytest.raises(UserError) as refusal:
        answered("sft fit", words if last else words[::-1])
    assert said in str(refusal.value)


def test_null_where_it_means_something_and_empty_groups(tmp_path: Path) -> None:
    text = "model:\n  lora: null\n  selection_reward:\n  optimizer:\ndata: {limit: null, fields: null}\ntrainer:\n"
    (tmp_path / "c.yaml").write_text(text + "seed_everything: 1\n")
    assert not answered("sft fit", [DATA, f"--config={tmp_path}/c.yaml"])


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_a_mistake_is_one_line(refusal: Callable[[Sequence[str]], str], line: str, said: str) -> None:
    assert said in refusal(line.split())


def test_nothing_heavy_is_imported_for_a_mistake_and_for_help() -> None:
    code = (
        "import sys, time; from lit_instruct.cli import main\n"
        "assert main(['ppo', 'fit', '--model.kl.coff=1']) == 2\n"
        "assert main(['sft', 'fit', '--config=nowhere.yaml']) == 2\n"
        "assert main(['rm', 'fit', '--help']) == 0\n"
        "heavy = ('torch', 'lightning', 'transformers', 'jsonargparse', 'numpy')\n"
        "print(time.process_time(), [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1


def config(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return f"--config={folder / 'mine.yaml'}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model:\n  kl: {coef: 0.1}\n\0\0\0\0", "damaged, or no config file (special characters are not allowed)"),
        (b"\0" * 600, "damaged, or no config file"),
        (b"[" * 5000, "damaged, or no config file (it nests too deep)"),
        (b"\x80\x02ctorch\n", "cannot be read ('utf-8' codec"),
        (b"model:\n  kl: {coef: 0.1, tar", "mine.yaml:2: not valid YAML"),
        (None, "is a folder; give a file in it"),
    ],
    ids=["NULs at the end", "only NULs", "brackets", "pickle", "cut", "folder"],
)
@pytest.mark.parametrize("command", [["sft", "fit"], ["ppo", "fit"], ["eval"], ["plan"], ["rm", "score"]])
def test_a_damaged_config_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: bytes | None, said: str
) -> None:
    """Such as the config.yaml that a run wrote to its logs when the power failed."""
    path = tmp_path / "mine.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert main([*command, "--config", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert said in error[0]


@pytest.mark.parametrize("content", [b"\x80\x02ctorch", b"\0\0", b"- a\n", b"model: [\n"])
def test_a_damaged_config_file_of_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert main(["sft", "fit", f"--model.lora={path}", "--data.path=README.md"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "mine.yaml" in error[0]
    assert "no such" not in error[0]


@pytest.mark.parametrize("text", ["model: &model\n  kl: *model\n", "model:\n  loggers: &all [1, [*all]]\n"])
@pytest.mark.parametrize("current", [True, False], ids=["pinned", "other versions"])
@pytest.mark.parametrize("written", [["--config={}"], ["--config", "{}"]], ids=" ".join)
def test_a_config_file_that_contains_itself(
    written: list[str], current: bool, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    if not current:
        monkeypatch.setattr(stored, "version", lambda _: "0.0")
    with pytest.raises(UserError, match=r"mine\.yaml:[12]: a value contains itself"):
        answered("ppo", ["fit", *(word.format(path) for word in written)])


def test_an_alias_that_ends_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trainer: {max_epochs: &one 1, accumulate_grad_batches: *one}\n")
    assert not answered("sft", ["fit", f"--config={path}", "--data.path=recipes/demo/data/demonstrations_train.jsonl"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model:\n  kl:\n    coff: 2\n",
            "mine.yaml:3: model.kl.coff: ppo fit has no such option; did you mean model.kl.",
        ),
        ("modl:\n  kl: 1\n", "mine.yaml:1: modl: ppo fit has no such option"),
        ("# my run\n\nmodel:\n  lora: {r: 4, rnk: 2}\n", "mine.yaml:4: model.lora.rnk: "),
        ("model:\n  iterations: many\n", "mine.yaml:2: model.iterations: many: must be a whole number"),
        ("model:\n  kl: [\n", "mine.yaml:3: not valid YAML"),
        ("- a\n", "mine.yaml:1: a config file holds options"),
    ],
)
def test_a_mistake_in_a_config_file_has_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        answered("ppo", ["fit", config(tmp_path, text), DATA])
    assert said in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        f"ppo fit {DATA} --model.lora=null --model.sampling.stop_ids+=3 --seed_everything 1",
        f"ppo fit {DATA} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/reward",
        f"ppo fit {DATA} --trainer.callbacks.init_args.monitor=a --trainer.logger.save_dir=x --trainer.plugins=x",
        f"sft fit {DATA} --model.optimizer.weight_decay=-1 --print_config=skip_default",
        "sft fit --print_config",
        "sft fit --data={path: x}",
        "sft --config recipes/demo/sft.yaml fit",
        "sft fit -c recipes/demo/sft.yaml --data.fields={prompt: question}",
        "data inspect --path=x --json=- --hygiene.max_per_user=2",
        "export --run=x --to=y --push_to_hub=me/name --merge=true",
        "plan --stage ppo --gpu 24GB --tokens-per-second 3e3 --json=x --data.batch_size=4",
        "plan --config=recipes/demo/rm.yaml",
    ],
)
def test_what_is_right_is_left_to_the_parser(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(check, "check_paths", lambda *_: None)  # they need not exist here
    words = line.replace(": ", ":\0").split(" ")
    number = 2 if words[:2] == ["data", "inspect"] else 1
    assert not answered(" ".join(words[:number]), [word.replace("\0", " ") for word in words[number:]])


CONFIGS = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.name != "expected.yaml")


@pytest.mark.parametrize("recipe", CONFIGS, ids=lambda path: f"{path.parent.name}")
def test_every_recipe_passes(monkeypatch: pytest.MonkeyPatch, recipe: Path) -> None:
    monkeypatch.setattr(check, "check_paths", lambda *_: None)
    stage = recipe.stem
    assert not answered(stage, [*([] if stage in ("eval", "iterate") else ["fit"]), f"--config={recipe}"])
