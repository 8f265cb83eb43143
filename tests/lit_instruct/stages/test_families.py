"""Every family of docs/models.md through the pipeline, on tiny random models, against plain transformers.

Each stage trains adapters on every layer. What it hands over is exported merged, opened with transformers alone, and
must give the same loss, rewards and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from tests.families import FAMILIES, tiny_family
from tests.lit_instruct.stages.helpers import Files, column, demonstrations, fit, run

pytestmark = pytest.mark.slow
ROWS = demonstrations(5, seed=1)
EVERY_LAYER = "--model.lora.r=4"
NO_CLASSIFIER = {"cohere", "granite", "hyperclovax"}
"""Families of which transformers has no sequence classifier."""
BALANCED = {"mixtral": 0.001, "phimoe": 0.001, "qwen3_moe": 0.001}
"""Coefficient of the loss that balances experts, in families that have one."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Path]:
    """A run folder called as the family, with its SFT stage."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    base = tiny_family(folder / "base", request.param)
    assert fit("sft", folder, files, f"--model.base={base}", lora=EVERY_LAYER) == 0
    yield folder


def exported(stage: Path, kind: type = AutoModelForCausalLM) -> PreTrainedModel:
    """A stage's model as transformers alone opens it."""
    to = stage.with_name(f"{stage.name}-exported")
    assert run("export", "--run", stage, "--to", to, "--merge") == 0
    return kind.from_pretrained(to, dtype=torch.float32).eval()


@torch.no_grad()
def losses(model: PreTrainedModel, stage: Path) -> list[torch.Tensor]:
    """The loss of each token of the responses of ROWS, one tensor per row."""
    prompter, found = prompter_of(find_source(str(stage))), []
    for row in ROWS:
        prompt, response = prompter.prompt_ids(row["prompt"]), prompter.response_ids(row["response"])
        log_probs = model(torch.tensor([prompt + response])).logits[0, :-1].log_softmax(dim=-1)
        found.append(-log_probs[len(prompt) - 1 :].gather(1, torch.tensor(response)[:, None]).squeeze(1))
    return found


def test_sft_has_the_loss_of_transformers(family: Path) -> None:
    model = exported(family / "sft")
    expected = float(torch.cat(losses(model, family / "sft")).mean())
    found = column(family / "sft/logs/metrics.csv", "val/loss")
    best = min(found)  # of the checkpoint that is handed over
    if family.name in BALANCED:
        assert 0 < best - expected < 3 * BALANCED[family.name]
    else:
        assert best == pytest.approx(expected, abs=2e-4)
    assert found[-1] != found[0]


def test_rewards_are_those_of_transformers(family: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    if family.name in NO_CLASSIFIER:
        assert fit("rm", family, files, lora=EVERY_LAYER) == 2
        assert "transformers has no sequence classifier of this architecture" in capsys.readouterr().err
        return
    assert fit("rm", family, files, f"--data.demonstrations_path={files.sft}", lora=EVERY_LAYER) == 0
    scorer = TextReward.from_source(str(family / "rm"), dtype="float32")
    found = scorer.score([row["prompt"] for row in ROWS], [row["response"] for row in ROWS])
    model = exported(family / "rm", AutoModelForSequenceClassification)
    with torch.no_grad():
        ids = [torch.tensor([scorer.ids(row["prompt"], row["response"])]) for row in ROWS]
        expected = [float(model(one).logits) for one in ids]
    without_bias = [reward - scorer.bias for reward in found]
    assert without_bias == pytest.approx(expected, abs=2e-4) or found == pytest.approx(expected, abs=2e-4)
    assert len({round(reward, 3) for reward in found}) > 1


def test_ppo_has_the_log_probabilities_of_transformers(family: Path, files: Files) -> None:
    reward = ["--model.reward.function=tests.lit_instruct.stages.rewards.letters"]
    assert fit("ppo", family, files, *reward, lora=EVERY_LAYER) == 0
    assert max(column(family / "ppo/logs/metrics.csv", "ppo/first_ratio_error")) < 1e-4
    assert column(family / "ppo/logs/metrics.csv", "ppo/kl")[0] == pytest.approx(0, abs=1e-3)
    generator = TextGenerator.from_source(str(family / "ppo"), dtype="float32")
    prompts = [row["prompt"] for row in ROWS]
    responses = [answers[0] for answers in generator.respond(prompts, max_new_tokens=8)]
    model, expected = exported(family / "ppo"), []
    with torch.no_grad():
        for prompt, response in zip(prompts, responses, strict=True):
            ids = generator.prompter.prompt_ids(prompt)
            log_probs = model(torch.tensor([ids + response.ids])).logits[0, :-1].log_softmax(dim=-1)
            chosen = log_probs[len(ids) - 1 :].gather(1, torch.tensor(response.ids)[:, None])
            expected.append(float(chosen.sum()))
    assert generator.log_probs(prompts, responses) == pytest.approx(expected, abs=2e-3)
