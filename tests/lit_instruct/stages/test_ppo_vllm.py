"""PPO with rollouts over HTTP: resumed as if never stopped, with the same figures from any number of servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.rollouts.vllm import replicas
from tests.lit_instruct.rollouts.vllm.fake_server import fake_vllm
from tests.lit_instruct.stages.helpers import Files, column, fit
from tests.lit_instruct.stages.test_resume import assert_same_run
from tests.lit_instruct.stages.test_two_processes import assert_same, both

pytestmark = pytest.mark.slow
REWARD = "--model.reward.function=tests.lit_instruct.stages.rewards.letters"


def engine(*urls: str) -> list[str]:
    return ["--model.rollouts.engine=vllm", f"--model.rollouts.url={','.join(urls)}", "--model.rollouts.wait=0.1"]


def test_a_run_that_its_servers_left_goes_on_as_if_they_had_not(
    tmp_path: Path, files: Files, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replicas, "FIRST_WAIT", 0.01)
    base = f"--model.base={tiny_model}"
    with fake_vllm(tiny_model) as one, fake_vllm(tiny_model) as two:
        assert fit("ppo", tmp_path / "whole", files, base, REWARD, *engine(one.url, two.url)) == 0
        log = tmp_path / "whole/ppo/logs/metrics.csv"
        assert all(kl < 1e-6 for kl in column(log, "rollout/mismatch_kl"))
        assert column(log, "ppo/first_ratio_error") == [0.0] * 4
        assert not one.adapters and not (tmp_path / "whole/ppo/rollouts").exists()
        one.answers_left = 8 + 3  # dies in the second iteration
        words = ["ppo", tmp_path / "stopped", files, base, REWARD, *engine(one.url)]
        assert fit(*words) == 2  # type: ignore[arg-type]
        assert "start a server again" in capsys.readouterr().err
        one.start()
        assert fit(*words, "--ckpt_path=last") == 0  # type: ignore[arg-type]
    assert_same_run(tmp_path / "whole/ppo", tmp_path / "stopped/ppo")


def test_each_of_two_processes_asks_for_its_own_prompts(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    with fake_vllm(tiny_model) as one, fake_vllm(tiny_model) as two:
        words = [f"--model.base={tiny_model}", REWARD, *engine(one.url, two.url), "--model.rollouts.wait=60"]
        assert_same(*both("ppo", tmp_path, files, words, []))
        loads = [len(server.asked_for("/v1/load_lora_adapter")) for server in (one, two)]
        assert loads == [10, 10]  # in each run the first adapter, and one after each of four iterations
        assert not one.adapters and not two.adapters


def test_importance_weights_of_an_engine_that_agrees_change_nothing_but_rounding(
    tmp_path: Path, files: Files, tiny_model: Path
) -> None:
    base = f"--model.base={tiny_model}"
    with fake_vllm(tiny_model) as server:
        for name, more in (("plain", []), ("weighted", ["--model.rollouts.importance_cap=2"])):
            assert fit("ppo", tmp_path / name, files, base, REWARD, *engine(server.url), *more) == 0
    plain, weighted = (
        column(tmp_path / f"{name}/ppo/logs/metrics.csv", "loss/policy") for name in ("plain", "weighted")
    )
    assert plain == pytest.approx(weighted, abs=1e-4)
    assert plain != weighted  # the weights are there: 1 up to rounding
