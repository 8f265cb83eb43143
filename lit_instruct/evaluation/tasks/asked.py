"""The tasks of one evaluation: checked before any model is loaded, and answered by each model while it is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compared import Compared
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.systems import Loaders

if TYPE_CHECKING:
    from lit_instruct.evaluation.tasks.answers import Answers
    from lit_instruct.evaluation.tasks.harness import Harness
    from lit_instruct.rollouts.text import TextGenerator

EXTRA = "pip install 'lit-instruct[tasks]'"
"""Installs lm_eval in the version that we test with."""


class AskedTasks:
    """Collects what each system answers.

    Args:
        harness: the tasks.
    """

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.answers: dict[str, dict[str, Answers]] = {}

    def ask(self, names: Sequence[str], model: TextGenerator) -> None:
        """Lets a model answer all tasks.

        Args:
            names: systems that it is.
            model: the language model.
        """
        print(f"{', '.join(names)}: {self.harness.described()}", flush=True)
        answers = self.harness.answers(model.model, model.prompter)
        self.answers |= dict.fromkeys(names, answers)

    def figures(self, compared: Compared, seed: int) -> dict[str, Any]:
        """Returns `tasks`, the figures, and `task_pairs`, the systems that they compare.

        Args:
            compared: the models.
            seed: of the bootstrap.
        """
        from lit_instruct.evaluation.tasks.figures import task_figures, task_pairs

        names = list(compared.sources)
        reference = next((name for name in names if compared.sources[name] == compared.reference), None)
        pairs = task_pairs(names, reference, compared.pairs)
        figures = task_figures({name: self.answers[name] for name in names}, pairs, seed)
        return {"tasks": figures, "task_pairs": [list(pair) for pair in pairs]}

    def rows(self) -> list[dict[str, Any]]:
        """Returns every question with each system's values."""
        from lit_instruct.evaluation.tasks.figures import task_rows

        return task_rows(self.answers)


def given_tasks(options: EvalOptions, compared: Compared, loaders: Loaders) -> AskedTasks:
    """Opens the tasks of --tasks and checks them for every model.

    Args:
        options: with tasks.
        compared: the models.
        loaders: that open their prompt formats.

    Raises:
        UserError: lm_eval is not installed, a task cannot be asked, or a model cannot read one of its questions.
    """
    if find_spec("lm_eval") is None:
        raise UserError(f"--tasks: lm_eval, which asks them, is not installed; install the extra: {EXTRA}")
    names = list(dict.fromkeys(name.strip() for name in str(options.tasks).split(",") if name.strip()))
    if not names:
        raise UserError("--tasks: no name in it; give names such as piqa,boolq, or files")
    from lit_instruct.evaluation.tasks.harness import Harness
    from lit_instruct.models.checks import context_of
    from lit_instruct.models.loading import find_source, load_config

    harness = Harness(names, options.tasks_limit, options.tasks_chat_template)
    for name, source in compared.sources.items():
        prompter = loaders.prompter(compared.formats.get(name, source))
        harness.check_context(name, prompter, context_of(load_config(find_source(source))))
    return AskedTasks(harness)
