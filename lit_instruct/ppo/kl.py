"""The coefficient of the KL penalty: fixed, or adapted to a target (eq. 2; Ziegler et al. 2019, section 2.2)."""

from __future__ import annotations

import logging
from typing import Literal

from lit_instruct.losses.divergence import adapted_kl_coef
from lit_instruct.ppo.objective import KLOptions

log = logging.getLogger(__name__)
GAIN = 0.1
"""Default gain of the adaptive coefficient, as in Ziegler et al. 2019."""
LENGTH = ("model.kl.budget", "model.iterations")
"""Options that decide only when a training ends."""


class KLController:
    """beta of eq. 2, the coefficient of the next iteration's KL penalty."""

    def __init__(self, options: KLOptions) -> None:
        self.options = options
        self.coef = options.coef

    def adapt(self, kl: float) -> None:
        """Adapts the coefficient to the target, if there is one; `kl` is the last iteration's, in nats per response."""
        if self.options.target is not None:
            adapted = adapted_kl_coef(self.coef, kl, self.options.target, self.options.gain or GAIN)
            self.coef = max(adapted, self.options.min_coef)

    def beyond_bound(self, kl: float, iteration: int) -> Literal["shrink", "stop"] | None:
        """Returns and logs the action of `--model.kl.on_bound` if an iteration's KL, in nats, exceeds the bound."""
        options = self.options
        if options.bound is None or kl <= options.bound:
            return None
        what = "the training ends here" if options.on_bound == "stop" else "the policy's learning rate is halved"
        log.warning("iteration %s: KL %.1f nats exceeded --model.kl.bound=%s; %s", iteration, kl, options.bound, what)
        return options.on_bound

    def reaches_budget(self, kl: float) -> bool:
        """Returns whether the KL of fresh responses, in nats, has reached the budget."""
        return self.options.budget is not None and kl >= self.options.budget

    def ending(self, kl: float, iterations: int, metric: str | None) -> str | None:
        """Returns in a sentence whether a training reached its budget; None if it had none.

        Args:
            kl: of its last responses, in nats per response.
            iterations: how many of them took steps.
            metric: by which a policy is selected, which may be an earlier one.
        """
        if self.options.budget is None:
            return None
        option = f"--model.kl.budget={self.options.budget}"
        if self.reaches_budget(kl):
            best = f"; the best policy by {metric} up to then is the result" if metric is not None else ""
            return f"{option} was reached after {iterations} iterations: the KL is {kl:.2f} nats per response{best}"
        return (
            f"{option} was not reached: the training ended after {iterations} iterations, whose last responses had a "
            f"KL of {kl:.2f} nats; raise --model.iterations, or lower --model.kl.coef"
        )

    def restore(self, coef: float, first_coef: float) -> None:
        """Restores an adapted coefficient, unless `--model.kl.coef` has changed from the checkpoint's `first_coef`."""
        if self.options.target is not None and first_coef == self.options.coef:
            self.coef = coef
