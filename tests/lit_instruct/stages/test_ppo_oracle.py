"""PPO equals TRL 1.12's PPOTrainer number for number, except for TRL's defects, which tests show beside our results.

`make ppo-oracle` records TRL (tests/oracle); `oracle_replay` runs PPOModule on what it recorded. One difference would
hide all the others. If a response is shorter than the longest of its batch, TRL counts one more state: the score comes
after the EOS, at a step that is discounted, whitened and learnt by the value function, and that is missing if the other
responses are no longer. Our score comes at the EOS. `state_after` gives our code TRL's mask, so that the rest can be
compared exactly; `test_the_state_after_a_response` shows the effect of this difference alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_instruct.ppo.targets import Targets
from tests.lit_instruct.stages.helpers import assert_equal
from tests.lit_instruct.stages.oracle_replay import CASES, Recording, Replay, recording_of, replay_of

EXACT = 1e-6
UPDATES = [name for name, case in CASES.items() if case["processes"] == case["micro_batches"] == 1]
"""One micro-batch a step, so that TRL's steps are ours."""
FULL_LENGTH = [name for name in CASES if name.startswith("full-length")]
"""Without a response that ended early: no adjustment at all."""


def replay(name: str, given: bool = True) -> Replay:
    """A replay with TRL's mask."""
    return replay_of(name, given, bool(CASES[name]["stops"]))


def in_order(replayed: Replay, parts: list[Tensor]) -> Tensor:
    """Rows of all micro-batches in the order of the recording."""
    rows = [row for part in replayed.collector.parts for row in part]
    return torch.cat(parts)[torch.tensor(rows).argsort()]


def both(what: str, trl: object, ours: object) -> None:
    """Shows two numbers that differ on purpose (pytest -rP prints them)."""
    print(f"{what}: TRL 1.12 {trl}, lit-instruct {ours}")


def test_the_grid_is_whole() -> None:
    grid = [
        (case["kl_estimator"], case["whiten_rewards"], case["missing_eos_penalty"], case["num_ppo_epochs"])
        for name, case in CASES.items()
        if name.startswith(("k1", "k3"))
    ]
    assert len(set(grid)) == 16
    assert all(case["gamma"] != 1 != case["lam"] for name, case in CASES.items() if name != "undiscounted")
    for name in UPDATES:
        if CASES[name]["stops"]:
            recording = recording_of(name)
            assert len(recording.mask.sum(dim=1)[recording.ended].unique()) >= 3
            assert not recording.ended.all()


@pytest.mark.parametrize("name", UPDATES)
def test_log_probs_and_values_are_those_of_trl(name: str) -> None:
    replayed, recording = replay(name, given=False), recording_of(name)
    mask = recording.mask
    for ours, theirs in (
        ("log_probs", "logprobs"),
        ("log_probs", "generation_logprobs"),
        ("reference_log_probs", "ref_logprobs"),
        ("values", "values"),
    ):
        found = in_order(replayed, [getattr(rollout, ours) for rollout in replayed.rollouts])
        torch.testing.assert_close(found[mask], recording[theirs][mask], rtol=0, atol=1e-5)
    scores = in_order(replayed, [target.scores for target in replayed.found])
    torch.testing.assert_close(scores, recording["scores"], rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", [*UPDATES, "full-length-micro-batches"])
def test_advantages_and_returns(name: str) -> None:
    replayed, recording = replay(name), recording_of(name)
    counted, tokens = recording.mask_and_state_after, recording.mask
    advantages = in_order(replayed, [target.advantages for target in replayed.found])
    returns = in_order(replayed, [target.returns for target in replayed.found])
    # TRL averages policy losses over tokens, our module over all that its mask counts; see `as_trl_counts`.
    advantages = advantages * tokens.sum() / counted.sum()
    torch.testing.assert_close(advantages, recording["advantages"], rtol=0, atol=EXACT)
    torch.testing.assert_close(returns * counted, recording["returns"] * counted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", [*UPDATES, "full-length-micro-batches"])
def test_losses(name: str) -> None:
    replayed, case = replay(name), CASES[name]
    assert len(replayed.losses) == case["num_ppo_epochs"]
    micro_batches = case["micro_batches"]
    for epoch, ours in enumerate(replayed.losses):
        theirs = case["losses"][epoch * micro_batches : (epoch + 1) * micro_batches]
        for loss, trl in (("loss/policy", "pg_loss"), ("loss/value", "vf_loss")):
            assert ours[loss] == pytest.approx(sum(part[trl] for part in theirs) / micro_batches, abs=EXACT)


@pytest.mark.parametrize(("given", "tolerance"), [(True, EXACT), (False, 1e-4)], ids=["TRL's", "ours"])
@pytest.mark.parametrize("name", [*UPDATES, "full-length-micro-batches"])
def test_weights_after_the_update(name: str, given: bool, tolerance: float) -> None:
    after, expected = replay(name, given).after, recording_of(name).after
    before = {name.replace(".default.", ".policy."): t for name, t in recording_of(name).weights.items()}
    assert_equal(after, expected, tolerance)
    assert max((after[part] - before[part]).abs().max() for part in after) > 10 * tolerance


@pytest.mark.parametrize("name", UPDATES)
def test_clipping_played_a_part(name: str) -> None:
    if CASES[name]["num_ppo_epochs"] == 4:
        assert replay(name).losses[-1]["ppo/clip_share"] > 0


def test_the_state_after_a_response() -> None:
    """Defect: what a response is worth depends on how long the others of its batch are."""
    for name in ("undiscounted", "k1-1"):
        plain, recording = replay_of(name, True, False), recording_of(name)
        returns = in_order(plain, [target.returns for target in plain.found])
        early = recording.ended & (recording.mask.sum(dim=1) < recording.mask.shape[1])
        difference = ((returns - recording["returns"]) * recording.mask).abs().amax(dim=1)
        assert early.any()
        assert not early.all()
        assert difference[~early].max() <= EXACT
        if name == "undiscounted":  # one more step makes no difference when it costs nothing
            assert difference.max() <= EXACT
            continue
        assert difference[early].min() > 1e-3
        row = int(early.nonzero()[0])
        last = int(recording.mask[row].sum()) - 1
        both("return of an EOS", float(recording["returns"][row, last]), float(returns[row, last]))
        assert float(returns[row, last]) == pytest.approx(_reward_at(recording, row, last), abs=EXACT)
        both("states in the value loss", int(recording.mask_and_state_after.sum()), int(recording.mask.sum()))
        both("value loss", CASES[name]["losses"][0]["vf_loss"], plain.losses[0]["loss/value"])
        assert plain.losses[0]["loss/value"] != pytest.approx(CASES[name]["losses"][0]["vf_loss"], abs=1e-3)


def _reward_at(recording: Recording, row: int, at: int) -> float:
    kl = recording["logprobs"][row, at] - recording["ref_logprobs"][row, at]
    return float(recording["scores"][row] - recording.case["kl_coef"] * kl)


def test_tokens_weigh_the_same_whatever_their_micro_batch() -> None:
    """Defect: TRL averages each micro-batch by itself, so a token among short responses weighs more."""
    name = "micro-batches"
    case, recording = CASES[name], recording_of(name)
    per_token = replay_of(name, True, False).losses[0]["loss/policy"]
    parts = [
        (loss["pg_loss"], int(recording.mask[recording[f"rows_{i}"]].sum())) for i, loss in enumerate(case["losses"])
    ]
    assert len({tokens for _, tokens in parts}) > 1
    mean_of_means = sum(loss for loss, _ in parts) / len(parts)
    weighted = sum(loss * tokens for loss, tokens in parts) / sum(tokens for _, tokens in parts)
    both("policy loss of the first step", mean_of_means, per_token)
    assert weighted == pytest.approx(0, abs=EXACT)  # of whitened advantages at a ratio of 1
    assert per_token == pytest.approx(weighted, abs=EXACT)
    assert abs(mean_of_means) > 1e-3


def test_minibatches_are_optimizer_steps() -> None:
    """Defect: TRL's num_mini_batches does not change the number of optimizer steps."""
    name = "mini-batches"
    ours = Replay(recording_of(name), True, False, minibatches=2, micro_batch_size=2).run()
    both("steps of 2 minibatches", len(CASES[name]["gradient_norms"]), len(ours.losses))
    assert CASES[name]["num_mini_batches"] == 2
    assert len(CASES[name]["gradient_norms"]) == 1
    assert len(ours.losses) == 2


def test_logged_losses_are_means_of_losses() -> None:
    """Defect: TRL divides its statistics by slots of minibatches that no micro-batch ever fills."""
    name = "mini-batches"
    case = CASES[name]
    mean = sum(loss["vf_loss"] for loss in case["losses"]) / len(case["losses"])
    ours = replay_of(name, True, False)
    logged = float(ours.trainer.callback_metrics["loss/value"])
    both("logged value loss as a share of its mean", case["metrics"]["loss/value_avg"] / mean, 1.0)
    assert case["metrics"]["loss/value_avg"] == pytest.approx(mean / 2, abs=EXACT)
    assert logged == pytest.approx(sum(loss["loss/value"] for loss in ours.losses) / len(ours.losses), abs=EXACT)


def test_the_last_batch_of_a_pass_is_one_step_too() -> None:
    """Defect: TRL steps on every micro-batch of the last batch of a pass over the data."""
    ours = replay_of("last-of-pass", True, False)
    both("steps of the last batch", len(CASES["last-of-pass"]["gradient_norms"]), len(ours.losses))
    assert len(CASES["micro-batches"]["gradient_norms"]) == 1
    assert len(CASES["last-of-pass"]["gradient_norms"]) == CASES["last-of-pass"]["micro_batches"] == 4
    assert len(ours.losses) == 1


def test_the_largest_gradient_norm_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: TRL ignores max_grad_norm."""
    name = "full-length-micro-batches"
    case = CASES[name]
    ours = Replay(recording_of(name), True, False)
    ours.optimizer_options.max_grad_norm = case["max_grad_norm"]
    stepped: list[float] = []
    real = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW, *args: object, **more: object) -> object:
        for group in optimizer.param_groups:
            gradients = [p.grad.flatten() for p in group["params"] if p.grad is not None]
            stepped.append(float(torch.cat(gradients).norm()))
        return real(optimizer, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    ours.run()
    both("gradient norm of a step", case["gradient_norms"][0], max(stepped))
    assert min(case["gradient_norms"]) > 10 * case["max_grad_norm"]
    assert len(stepped) == 2 * case["num_ppo_epochs"]
    assert max(stepped) <= case["max_grad_norm"] * 1.001
    together = sum(norm**2 for norm in ours.gradient_norms[:2]) ** 0.5
    assert together == pytest.approx(case["gradient_norms"][0], rel=1e-4)  # before clipping they agree


def test_whitening_is_over_all_processes() -> None:
    """Defect: TRL whitens advantages on each rank by itself, as if all ranks did equally well."""
    recordings = [recording_of("two-processes", rank) for rank in range(2)]
    replays = [Replay(recording, True, False).run() for recording in recordings]
    rollouts = [rollout for replayed in replays for rollout in replayed.rollouts]
    kl_coef = replays[0].kl.coef
    ours = [
        target.advantages[rollout.response_mask].mean().item()
        for target, rollout in zip(Targets.__call__(replays[0].targets, rollouts, kl_coef)[0], rollouts, strict=True)
    ]
    theirs = [recording["advantages"][recording.mask].mean().item() for recording in recordings]
    both("mean advantage on each of 2 ranks", theirs, ours)
    assert theirs == pytest.approx([0.0, 0.0], abs=EXACT)
    assert min(abs(mean) for mean in ours) > 1e-3
    counts = [int(recording.mask.sum()) for recording in recordings]
    assert sum(mean * count for mean, count in zip(ours, counts, strict=True)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("name", FULL_LENGTH)
def test_these_replays_were_adjusted_in_nothing(name: str) -> None:
    assert not replay(name).state_after
    assert torch.equal(recording_of(name).mask, recording_of(name).mask_and_state_after)
