"""The coefficient of the KL penalty: fixed, or adapted to a target (eq. 2; Ziegler et al. 2019, section 2.2)."""

from __future__ import annotations

import logging
from typing import Literal

from lit_instruct.losses.divergence import adapted_kl_coef
from lit_instruct.ppo.options import KLOptions

log = logging.getLogger(__name__)
GAIN = 0.1
"""Of the adaptive coefficient, as in Ziegler et al. 2019."""


class KLController:
    """beta of eq. 2.

    Args:
        options: of the penalty and its control.
    """

    def __init__(self, options: KLOptions) -> None:
        self.options = options
        self.coef = options.coef
        """beta of the next iteration."""

    def adapt(self, kl: float) -> None:
        """Moves the coefficient towards the target, where there is one.

        Args:
            kl: of the last iteration, in nats per response.
        """
        if self.options.target is not None:
            self.coef = adapted_kl_coef(self.coef, kl, self.options.target, self.options.gain or GAIN)

    def beyond_bound(self, kl: float, iteration: int) -> Literal["shrink", "stop"] | None:
        """Returns what `--model.kl.on_bound` asks for where an iteration exceeded the bound, and logs it.

        Args:
            kl: of the iteration, in nats per response.
            iteration: its number, for the log.
        """
        options = self.options
        if options.bound is None or kl <= options.bound:
            return None
        what = "the training ends here" if options.on_bound == "stop" else "the policy's learning rate is halved"
        log.warning("iteration %s: KL %.1f nats exceeded --model.kl.bound=%s; %s", iteration, kl, options.bound, what)
        return options.on_bound

    def restore(self, coef: float, first_coef: float) -> None:
        """Resumes an adapted coefficient, unless the option that it started from has changed.

        Args:
            coef: of the checkpoint.
            first_coef: `--model.kl.coef` of the checkpoint.
        """
        if self.options.target is not None and first_coef == self.options.coef:
            self.coef = coef
