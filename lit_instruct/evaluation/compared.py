"""Which models an evaluation compares, and what it measures them with: the stages of a run, or models by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lit_instruct.checkout import stage_command
from lit_instruct.errors import UserError
from lit_instruct.evaluation.options import EvalOptions

if TYPE_CHECKING:
    from lit_instruct.handover import Stage

STAGES = ("sft", "rm", "ppo")


@dataclass
class Compared:
    """Models by the names that they have in the report."""

    sources: dict[str, str]
    """System -> model, in the order of the report; best-of-n comes after the system that it samples."""
    pairs: list[tuple[str, str]]
    """Systems (ours, theirs) that are compared prompt by prompt; the last pair is the main one."""
    folder: Path
    """Of the report."""
    stages: dict[str, tuple[Path, Stage]]
    """Stages that made the systems, the reward model and the reference, by how messages call them."""
    reference: str | None = None
    """Model that the KL is measured to."""
    reward: str | None = None
    """Reward model."""
    best_of: str | None = None
    """System of which best-of-n takes the best of n samples; only the reference can be one."""
    formats: dict[str, str] = field(default_factory=dict)
    """System -> model whose prompt format it answers in, if not its own."""
    elsewhere: list[str] = field(default_factory=list)
    """Models whose training data nobody recorded."""
    left_out: list[str] = field(default_factory=list)
    """What is not measured and why, in sentences."""
    warnings: list[str] = field(default_factory=list)

    @property
    def leading(self) -> Stage | None:
        """The stage whose options count where the evaluation has none: the last PPO or else SFT stage."""
        made = [self.stages[name][1] for name in self.sources if name in self.stages]
        return next((stage for kind in ("ppo", "sft") for stage in reversed(made) if stage.stage == kind), None)

    def labels(self, best_of: int) -> dict[str, str]:
        """Returns key of a system in report.json -> its name in tables and charts."""
        known = {"sft": "SFT", "ppo": "PPO"}
        found = {}
        for name in self.sources:
            found[name] = known.get(name, name)
            if name == self.best_of:
                found[f"best_of_{best_of}"] = f"best-of-{best_of}"
        return found


def compared_models(options: EvalOptions) -> Compared:
    """Returns what to compare: the models of --systems, or else the stages of the run.

    Raises:
        UserError: there is nothing to compare, a folder does not exist, a record is damaged, or the stages do not
            belong together.
    """
    models = {f"systems.{name}": source for name, source in (options.systems or {}).items()}
    for option, model in (models | {"reference": options.reference, "reward_model": options.reward_model}).items():
        if model is not None and not _is_there(model):
            raise UserError(f"--{option}={model}: no such folder; check the path, or give a hub id")
    return _of_names(options, options.systems) if options.systems else _of_run(options)


def _of_run(options: EvalOptions) -> Compared:
    run = Path(options.run)
    stages = {name: (run / name, stage) for name in STAGES if (stage := _stage_in(run / name)) is not None}
    if not stages.keys() & {"sft", "ppo"}:
        raise UserError(
            f"{run}: there is neither an SFT nor a PPO stage in this run; run `{stage_command('sft', run)}` first, "
            "name another run with --run, or models with --systems.a=... --systems.b=..."
        )
    policy = stages["ppo"][1] if "ppo" in stages else None
    start = _place(run / "sft", policy, "sft") if policy is not None else str(run / "sft")
    base = str(stages["sft" if "sft" in stages else "ppo"][1].base["source"])
    sources = {"base": base, "sft": start, "ppo": str(run / "ppo") if policy is not None else None}
    given = {name: source for name, source in sources.items() if source is not None}
    if given.get("sft") == base:
        del given["base"]
    found = Compared(given, [], run / "eval", stages, options.reference or start)
    found.reward = options.reward_model or _place(run / "rm", policy, "reward")
    found.formats = {"base": start} if start is not None and "base" in given else {}
    found.best_of = "sft" if found.reward is not None and start is not None and found.reference == start else None
    names = [name for name in ("ppo", "sft", "base") if name in given]
    if len(names) < 2:
        raise UserError(f"{run}: there is only one model to compare; name others with --systems.a=... --systems.b=...")
    found.pairs = [(names[0], names[1])]
    _add_parents(found, {"sft": start, "rm": found.reward})
    _check_belong(run, found)
    _tell_left_out(found, "PPO's stage.json names none that is still there")
    if policy is None:
        found.left_out.append("there is no PPO stage in this run: SFT is compared with its base")
    return found


def _of_names(options: EvalOptions, systems: Mapping[str, str]) -> Compared:
    stages = {name: (Path(source), stage) for name, source in systems.items() if (stage := _stage_in(Path(source)))}
    for name, (_, stage) in stages.items():
        if stage.stage == "rm":
            raise UserError(f"--systems.{name}: a reward model answers no prompts; use it as --reward_model")
    first, *others = systems
    folder = Path(options.out) if options.out is not None else Path("runs") / f"eval-{'-'.join(systems)}"
    found = Compared(dict(systems), [(other, first) for other in others], folder, dict(stages))
    found.elsewhere = [source for name, source in systems.items() if name not in stages]
    found.reference = options.reference or _common(stages, "sft")
    found.reward = options.reward_model or _common(stages, "reward")
    _add_parents(found, {"reference": found.reference, "reward model": found.reward})
    _tell_left_out(found, "the systems have none in common")
    return found


def _add_parents(found: Compared, models: Mapping[str, str | None]) -> None:
    """Adds the stages that made the reference and the reward model, unless they are among those that are known."""
    known = {path.resolve() for path, _ in found.stages.values()} | {Path(name).resolve() for name in found.elsewhere}
    for name, model in models.items():
        if model is None or Path(model).resolve() in known:
            continue
        if stage := _stage_in(Path(model)):
            found.stages[name] = (Path(model), stage)
        else:
            found.elsewhere.append(model)


def _stage_in(folder: Path) -> Stage | None:
    from lit_instruct.handover import read_stage

    return read_stage(folder)


def _place(own: Path, policy: Stage | None, role: str) -> str | None:
    """Where the model is that a policy started from or was rewarded by: beside it, or else where it was then."""
    if _stage_in(own) is not None:
        return str(own)
    name = policy.parents.get(role) if policy is not None else None
    return name if name is not None and _is_there(name) else None


def _is_there(name: str) -> bool:
    """Whether a name is a folder that exists, or else may be a hub id."""
    return Path(name).expanduser().exists() or (not name.startswith((".", "/", "~", "runs/")) and name.count("/") <= 1)


def _common(stages: Mapping[str, tuple[Path, Stage]], role: str) -> str | None:
    """The one model that all stages started from (role sft) or were rewarded by; None if there is no such model."""
    places = {"sft": "sft", "reward": "rm"}
    found: set[str | None] = set()
    for folder, stage in stages.values():
        if role == "sft" and stage.stage == "sft":
            found.add(str(folder))
        elif stage.stage == "ppo":
            found.add(_place(folder.parent / places[role], stage, role))
    names = {str(Path(name).resolve()) if Path(name).exists() else name: name for name in found if name is not None}
    return next(iter(names.values())) if len(names) == 1 and None not in found else None


def _check_belong(run: Path, found: Compared) -> None:
    """Refuses a policy whose prompt format is not SFT's; warns of stages newer than the policy."""
    stages = {name: stage for name, (_, stage) in found.stages.items()}
    if "ppo" not in stages:
        return
    if "sft" in stages and stages["ppo"].prompt_format != stages["sft"].prompt_format:
        raise UserError(
            f"{run / 'ppo'}: made with another prompt format than {run / 'sft'}; "
            f"run `{stage_command('ppo', run)}` again"
        )
    found.warnings += [
        f"{name} was made again after ppo, which started from an earlier one: "
        f"run `{stage_command('ppo', run)}` again to get figures that belong together"
        for name in ("sft", "rm")
        if name in stages and stages[name].created > stages["ppo"].created
    ]


def _tell_left_out(found: Compared, why: str) -> None:
    if found.reference is None:
        found.left_out.append(f"KL to SFT is left out: {why} (--reference names one)")
    if found.reward is None:
        best = " and best-of-n" if "sft" in found.sources else ""
        found.left_out.append(f"reward-model scores{best} are left out: there is no reward model (--reward_model)")
