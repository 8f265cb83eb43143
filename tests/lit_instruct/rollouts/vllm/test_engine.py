"""Responses sampled over HTTP: from the right weights, the same from any server, with any fault mended or told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_instruct.errors import UserError
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles
from lit_instruct.ppo.mismatch import Mismatch
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import Sampled
from lit_instruct.rollouts.engine_options import RolloutOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.sampling import seed_of
from lit_instruct.rollouts.vllm import replicas
from lit_instruct.rollouts.vllm.adapters import adapter_name
from lit_instruct.rollouts.vllm.engine import VLLMEngine, vllm_engine
from tests.lit_instruct.ppo.parts import SAMPLING, batch_of, collector_of
from tests.lit_instruct.rollouts.stage_folders import sft_folder
from tests.lit_instruct.rollouts.vllm.fake_server import FakeVLLM, fake_vllm
from tests.tiny import tiny_llama

NEEDS = 100
KEY = (0, 3)


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return sft_folder(tmp_path_factory.mktemp("run") / "sft", tiny_model)


@pytest.fixture(scope="module")
def prompter(sft: Path) -> Prompter:
    return prompter_of(find_source(str(sft)))


@pytest.fixture(scope="module")
def built(sft: Path) -> Roles:
    return ppo_roles(find_source(str(sft)), [], LoraOptions(r=4, alpha=8.0, top_layers=2), torch.float32)


@pytest.fixture
def roles(built: Roles) -> Iterator[Roles]:
    """Roles whose policy has moved away from the reference."""
    before = [parameter.detach().clone() for parameter in built.parameters_of("policy")]
    move(built, 1.2)
    yield built
    with torch.no_grad():
        for parameter, value in zip(built.parameters_of("policy"), before, strict=True):
            parameter.copy_(value)


def move(roles: Roles, factor: float) -> None:
    """Takes the policy away from the reference."""
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.mul_(factor)


@pytest.fixture
def server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    monkeypatch.setattr(replicas, "FIRST_WAIT", 0.01)
    with fake_vllm(tiny_model) as running:
        yield running


@pytest.fixture
def second(tiny_model: Path) -> Iterator[FakeVLLM]:
    with fake_vllm(tiny_model) as running:
        yield running


def engine_of(
    roles: Roles,
    prompter: Prompter,
    folder: Path,
    *servers: FakeVLLM,
    sampling: SamplingOptions = SAMPLING,
    **more: Any,
) -> VLLMEngine:
    options = RolloutOptions("vllm", ",".join(one.url for one in servers), wait=more.pop("wait", 0.1), **more)
    return vllm_engine(options, roles, sampling, prompter, NEEDS, 32, folder, True, lambda work: work())


def sample(engine: VLLMEngine, prompter: Prompter, rows: Any = range(4)) -> Sampled:
    return engine.sample(batch_of(prompter, rows), KEY, lambda done, total: None)


def test_each_iteration_samples_from_the_weights_of_then(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    engine = engine_of(roles, prompter, tmp_path / "rollouts", server)
    collector = collector_of(roles, prompter, lambda *given: [0.0] * 4, engine=engine, mismatch=Mismatch(1e-6))
    names = []
    for factor in (1.0, 1.3, 1.0):
        move(roles, factor)
        found = collector.collect(batch_of(prompter), KEY)
        assert found.mismatch["rollout/mismatch_kl"] < 1e-9
        assert found.mismatch["rollout/mismatch_far"] == 0
        names.append(*server.adapters)
        assert [path.name for path in (tmp_path / "rollouts").iterdir()] == [*server.adapters]
    assert names[0] != names[1] == names[2] == adapter_name(roles.roles["policy"].network, "policy")
    assert len(server.asked_for("/v1/load_lora_adapter")) == 2  # the same weights are not sent again
    for rollout in found.parts:
        torch.testing.assert_close(rollout.sampler_log_probs, rollout.log_probs, atol=1e-5, rtol=0)
    engine.close()
    assert not server.adapters and not (tmp_path / "rollouts").exists()


def test_a_row_depends_on_its_key_alone_and_not_on_the_server(
    roles: Roles, prompter: Prompter, server: FakeVLLM, second: FakeVLLM, tmp_path: Path
) -> None:
    one = sample(engine_of(roles, prompter, tmp_path, server), prompter)
    seeds = {body["seed"] for body in server.asked_for("/v1/completions")[-4:]}  # they arrive in any order
    assert seeds == {seed_of((*KEY, number)) for number in (10, 11, 12, 13)}
    server.asked.clear()
    both = engine_of(roles, prompter, tmp_path, server, second)
    assert sample(both, prompter).responses == one.responses
    counts = [len([b for b in s.asked_for("/v1/completions") if b["model"] != "base"]) for s in (server, second)]
    assert counts == [2, 2]
    assert sample(both, prompter, [3, 1]).responses == [one.responses[3], one.responses[1]]


def test_stop_strings_end_responses_as_in_this_process(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    whole = sample(engine_of(roles, prompter, tmp_path, server), prompter).responses
    letter = prompter.decode(whole[0][2:3])[:1]
    sampling = SamplingOptions(max_new_tokens=6, stop_strings=[letter])
    stop = sampling.stop_rule(prompter)
    found = sample(engine_of(roles, prompter, tmp_path, server, sampling=sampling), prompter)
    ends = [next((n for n in range(1, 7) if stop.ended(ids[:n])), len(ids)) for ids in whole]
    assert found.responses == [ids[:end] for ids, end in zip(whole, ends, strict=True)]
    assert [*map(len, found.log_probs or [])] == ends
    assert min(ends) < 6


@pytest.mark.parametrize("fault", ["ignored adapter", "another model", "stale adapter"])
def test_samples_of_another_policy_stop_the_run(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(roles, prompter, tmp_path, server)
    collector = collector_of(roles, prompter, lambda *given: [0.0] * 4, engine=engine, mismatch=Mismatch(1e-3))
    collector.collect(batch_of(prompter), KEY)
    move(roles, 1.3)
    if fault == "ignored adapter":
        server.uses_adapters = False
    elif fault == "another model":
        server.scale = 0.2
    else:
        monkeypatch.setattr("lit_instruct.rollouts.vllm.engine.adapter_name", lambda *_: next(iter(server.adapters)))
    with pytest.raises(UserError, match=r"nats a token from ours .* more than --model.rollouts.mismatch_bound=0.001"):
        collector.collect(batch_of(prompter), KEY)
    collector.mismatch.bound = None
    assert collector.collect(batch_of(prompter), KEY).mismatch["rollout/mismatch_kl"] > 1e-3


def test_a_server_that_was_restarted_gets_the_adapter_again(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    engine = engine_of(roles, prompter, tmp_path, server)
    one = sample(engine, prompter)
    server.stop()
    server.start()
    assert sample(engine, prompter).responses == one.responses
    assert len(server.asked_for("/v1/load_lora_adapter")) == 2
    assert len([body for body in server.asked_for("/tokenize") if "messages" in body]) == 2  # checked anew


def test_the_others_answer_for_a_server_that_dies_and_it_is_used_again(
    roles: Roles, prompter: Prompter, server: FakeVLLM, second: FakeVLLM, tmp_path: Path, caplog: Any
) -> None:
    engine = engine_of(roles, prompter, tmp_path, server, second)
    one = sample(engine, prompter)
    second.answers_left = 1
    assert sample(engine, prompter).responses == one.responses
    second.stop()
    assert sample(engine, prompter).responses == one.responses
    second.start()
    second.asked.clear()
    assert sample(engine, prompter).responses == one.responses
    assert len([body for body in second.asked_for("/v1/completions") if body["model"] != "base"]) == 2


def test_without_any_server_the_run_waits_and_then_stops(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    engine = engine_of(roles, prompter, tmp_path, server)
    server.stop()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"127.0.0.1:\d+ cannot be reached .*, also after 0.1 s; start a server again"):
        sample(engine, prompter)
    assert time.monotonic() - began < 5
    server.start()
    server.status = 500
    with pytest.raises(UserError, match=r"answered 500: as the test wants it, also after 0.1 s"):
        sample(engine, prompter)


@pytest.mark.slow
def test_a_slow_server_counts_as_away(
    roles: Roles, prompter: Prompter, server: FakeVLLM, second: FakeVLLM, tmp_path: Path
) -> None:
    one = sample(engine_of(roles, prompter, tmp_path, server), prompter)
    engine = engine_of(roles, prompter, tmp_path, server, second, timeout=1.0)
    sample(engine, prompter)
    answer = second.answer
    second.answer = lambda path, body: (time.sleep(1.2), answer(path, body))[1]  # type: ignore[method-assign]
    assert sample(engine, prompter).responses == one.responses


def test_what_cannot_be_right_is_refused_at_once(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            sample(engine_of(roles, prompter, tmp_path, server, **options), prompter)

    server.max_model_len = NEEDS - 1
    refused(r"reads 99 tokens, but the longest prompt with its response has 100; start it with --max-model-len=100")
    server.max_model_len = NEEDS
    warm = SamplingOptions(max_new_tokens=6, temperature=0.7)
    server.processed = False
    refused(r"start it with --logprobs-mode=processed_logprobs", sampling=warm)
    server.processed, server.takes_adapters = True, False
    refused(r"takes no adapter \(404: .*Not Found.*\); it must see .* under that path, with `--enable-lora`")
    server.takes_adapters, server.status = True, 400
    refused(r"answered 400: as the test wants it; start it with the command that `lit-instruct serve-rollouts")
    server.status = None
    sample(engine_of(roles, prompter, tmp_path, server, sampling=warm), prompter)


def test_a_response_that_the_server_cuts_is_refused(
    roles: Roles, prompter: Prompter, server: FakeVLLM, tmp_path: Path
) -> None:
    engine = engine_of(roles, prompter, tmp_path, server)
    sample(engine, prompter)
    server.max_model_len = 16
    engine.replicas.check = lambda *_: None
    with pytest.raises(UserError, match="a server ended a response after .* without a token that ends one"):
        sample(engine, prompter)


@pytest.mark.parametrize("part", ["configuration", "weights", "tokenizer", "chat template"])
def test_another_base_is_refused(
    roles: Roles, prompter: Prompter, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_llama(tmp_path / "base", seed=1 if part == "weights" else 0)
    config, weights = base / "config.json", base / "model.safetensors"
    if part == "configuration":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.1}))
    if part == "weights":
        save_file({name: 3 * value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    with fake_vllm(base) as server:
        if part == "tokenizer":
            encode = server.tokenizer.encode
            server.tokenizer.encode = lambda text, **options: encode(text + "!", **options)
        if part == "chat template":
            server.tokenizer.chat_template = "{{ messages[0]['content'] }}"
        with pytest.raises(UserError, match=rf"which differs from the policy's base .* in its {part}"):
            sample(engine_of(roles, prompter, tmp_path / "rollouts", server), prompter)
