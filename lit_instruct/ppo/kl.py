"""The coefficient of the KL penalty: fixed, or adapted to a target (eq. 2; Ziegler et al. 2019, section 2.2)."""

from __future__ import annotations

from lit_instruct.losses.divergence import adapted_kl_coef
from lit_instruct.ppo.options import KLOptions

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

    def exceeds_bound(self, kl: float) -> bool:
        """Tells whether an iteration's KL, in nats per response, is beyond `--model.kl.bound`."""
        return self.options.bound is not None and kl > self.options.bound

    def restore(self, coef: float, first_coef: float) -> None:
        """Resumes an adapted coefficient, unless the option that it started from has changed.

        Args:
            coef: of the checkpoint.
            first_coef: `--model.kl.coef` of the checkpoint.
        """
        if self.options.target is not None and first_coef == self.options.coef:
            self.coef = coef
