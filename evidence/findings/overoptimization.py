"""Over-optimization: the gold score turns down while PPO and best-of-n still raise the reward that they optimise.

The gold labeler, which sees the prompt, stands in for the people. It ranks samples of the SFT model, and proxies learn
from the first 50 to 400 of these prompts. Best-of-n then chooses by a proxy, and PPO optimises it without KL penalty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from evidence import models
from evidence.claims import above, claim, shown
from evidence.context import Context
from evidence.fits import Curve, Form, fit_curves
from evidence.peaks import Measured, intervals, longest
from evidence.proxies import HOW, PPO, QUICK, Plan, Proxies, Setup, measured
from evidence.resampling import RESAMPLES
from evidence.result import Result
from lit_instruct.evaluation.measures import Interval

NAME = "overoptimization"
NO_HUB = "because its gold labeler is a program, which must rank fresh samples"
QUESTION = "Does the true score fall while the reward still rises, and does an ensemble put that off?"
PAPER = (
    "Gao et al. 2022: with d = sqrt(KL), the gold score of best-of-n follows d (alpha - beta d) and that of RL "
    "d (alpha - beta log d); both turn down while the proxy rises, later and higher for reward models from more data. "
    "Coste et al. 2023: several reward models put it off. InstructGPT fixes beta = 0.02 for the KL (section 3.5, C.4)"
)


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    plan = QUICK if context.quick else Plan()
    gold = yaml.safe_load(PPO.read_text(encoding="utf-8"))["model"]["selection"]["labeler"]
    setup = Setup(context, plan, models.sft(context, 0), gold)
    return result(setup, measured(setup))


def result(setup: Setup, proxies: Proxies, resamples: int = RESAMPLES) -> Result:
    """Returns the finding from what was measured, with intervals from so many resamples."""
    found = intervals(proxies.curves, n=resamples)
    slope = found["all_ppo/slope"]
    rising = above(slope)
    holds = None if rising is None else not rising
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(setup, proxies),
        holds=holds,
        figure=slope.mean,
        ci_low=slope.ci_low,
        ci_high=slope.ci_high,
        unit="slope of the gold score along d = sqrt(KL) at the end of PPO without KL penalty, mean of all sizes",
        seeds=list(setup.context.seeds),
        verdict=_verdict(setup.plan, found, holds),
        rows=_rows(setup.plan, proxies, found),
        plots=[*_plots(proxies.curves)],
        claims=_claims(setup.plan, found),
    )


def _claims(plan: Plan, found: dict[str, Interval]) -> list[dict[str, Any]]:
    least, most = min(plan.sizes), max(plan.sizes)
    names = {
        "PPO: the proxy still rises after the highest gold score": "all_ppo/proxy_rise",
        f"best-of-{max(plan.best_of)} by the reward model of {most} prompts raises the gold score": (
            f"best_of_n/{most}/end"
        ),
        f"PPO: the gold score peaks higher with {most} prompts than with {least}": "more_prompts/ppo/gain",
        f"best-of-n: the gold score peaks higher with {most} prompts than with {least}": "more_prompts/best_of_n/gain",
        f"{plan.members} reward models: the gold score peaks later than with one": "ensemble_minus_one/distance",
        f"{plan.members} reward models: the gold score peaks higher than with one": "ensemble_minus_one/gain",
    }
    return [claim(text, found[name]) for text, name in names.items()]


def _done(setup: Setup, proxies: Proxies) -> str:
    plan, seeds = setup.plan, len(setup.context.seeds)
    correct = {size: float(np.mean(own)) for size, own in proxies.accuracy.items()}
    accuracies = ", ".join(f"{value:.2f} ({size} prompts)" for size, value in correct.items())
    return (
        f"Gold labeler: {setup.gold}. It ranked {plan.k} responses of the SFT model to each of {max(plan.sizes)} "
        f"prompts; reward models learnt from the first {', '.join(map(str, plan.sizes))} of these, with {seeds} seeds. "
        f"On {plan.pool} samples to each of {plan.prompts} held-out prompts they order a pair as the gold labeler does "
        f"in a share of {accuracies}. Best-of-n by the unbiased estimator over that pool; PPO with the KL coefficient "
        f"0, its validation samples of the same prompts; {plan.members} reward models combined by {HOW}. All gains are "
        "over the mean of the SFT model's samples; intervals are over seeds and prompts"
    )


def _verdict(plan: Plan, found: dict[str, Interval], holds: bool | None) -> str:
    turned = {True: "has turned down", False: "still rises", None: "does not clearly turn down"}[holds]
    peaks = ", ".join(f"{found[f'ppo/{size}/distance'].mean:.1f}" for size in plan.sizes)
    late, high = (found[name] for name in ENSEMBLE)
    return (
        f"At the end of PPO without KL penalty the gold score {turned} (peaks at d = {peaks} with reward models of "
        f"{', '.join(map(str, plan.sizes))} prompts); with {plan.members} reward models the peak is "
        f"{_compared(late, 'later', 'earlier')} ({shown(late)} in d) and {_compared(high, 'higher', 'lower')} "
        f"({shown(high)}) than with one."
    )


ENSEMBLE = ("ensemble_minus_one/distance", "ensemble_minus_one/gain")


def _compared(difference: Interval, more: str, less: str) -> str:
    clear = above(difference)
    return f"not clearly {more}" if clear is None else more if clear else less


def _rows(plan: Plan, proxies: Proxies, found: dict[str, Interval]) -> list[dict[str, Any]]:
    """A row for each fitted curve."""
    rows = []
    for name, title, size, _, curves in _kinds(proxies.curves):
        row = {"optimised by": title, "prompts of the reward model": size}
        row["pair accuracy"] = f"{np.mean(proxies.accuracy[size]):.2f}" if size in proxies.accuracy else ""
        for key, label in COLUMNS.items():
            row[label] = shown(found[f"{name}/{key}"])
        rows.append(row | {"largest d": f"{longest(curves):.1f}"})
    return rows


COLUMNS = {
    "alpha": "alpha",
    "beta": "beta",
    "distance": "d of the peak",
    "gain": "gold gain at the peak",
    "end": "gold gain at the end",
    "decline": "lost from there to the end",
    "slope": "slope at the end",
    "proxy_rise": "proxy gained meanwhile",
}


def _kinds(curves: Measured) -> list[tuple[str, str, int, Form, Any]]:
    """Key of the figures, title, prompts of the reward model, form, and curves of the seeds."""
    found: list[tuple[str, str, int, Form, Any]] = []
    found += [(f"best_of_n/{size}", "best-of-n", size, "best_of_n", own) for size, own in curves.best_of_n.items()]
    found += [(f"ppo/{size}", "PPO", size, "rl", own) for size, own in curves.ppo.items()]
    return [*found, ("ensemble", "PPO, ensemble", curves.members_trained_on, "rl", curves.ensemble)]


def _plots(curves: Measured) -> list[dict[str, Any]]:
    """For best-of-n and PPO a chart of the gold and one of the proxy gains along d."""
    charts, forms = [], dict[str, Form]({"Best-of-n": "best_of_n", "PPO": "rl"})
    for title, form in forms.items():
        own = [kind for kind in _kinds(curves) if kind[3] == form]
        lines = {
            ("ensemble" if "ensemble" in name else f"{size} prompts"): list(some) for _, name, size, _, some in own
        }
        for label, score in (("gold", "gold"), ("proxy", "proxy")):
            charts.append(
                {
                    "title": f"{title}: {label} gain over SFT",
                    "x": "sqrt(KL to SFT in nats)",
                    "y": "score" if score == "gold" else "standard deviations of SFT's samples",
                    "lines": [{"name": name, "points": _points(some, score)} for name, some in lines.items()],
                    "fits": [{"name": name, "points": _fitted(some, form)} for name, some in lines.items()]
                    if score == "gold"
                    else [],
                }
            )
    return charts


def _points(curves: list[Curve], score: str) -> list[list[float]]:
    """[d, mean gain] of every validation of every seed, by d."""
    found = [
        [round(float(d), 3), round(float(gain), 4)]
        for curve in curves
        for d, gain in zip(curve.distances(), getattr(curve, score).mean(axis=1), strict=True)
    ]
    return sorted(found)


def _fitted(curves: list[Curve], form: Form) -> list[list[float]]:
    """The fit on a grid from 0 to the largest distance."""
    fit = fit_curves(curves, form)
    return [[round(float(d), 3), round(fit.gain(float(d)), 4)] for d in np.linspace(0, longest(curves), 41)]
