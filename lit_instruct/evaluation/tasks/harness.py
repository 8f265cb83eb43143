"""Models answer tasks of lm_eval."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from lit_instruct.errors import UserError
from lit_instruct.evaluation.tasks.answers import Answers, answers_of
from lit_instruct.evaluation.tasks.opening import check_answers, open_tasks
from lit_instruct.prompting import Prompter

BATCH_SIZE = 8
"""Sequences per forward: lm_eval keeps the logits of all their tokens."""
FEW_SHOT_SEED = 1234
"""lm_eval's own, so that few-shot examples are those of its command."""


class Harness:
    """Tasks of lm_eval with the questions that are asked, opened and checked before any model.

    Args:
        names: of tasks, groups or tags of lm_eval; task files (.yaml); or rows of questions (.jsonl).
        limit: most questions per task, spread evenly over it; None takes all.
        chat: whether questions are asked in the models' prompt format; otherwise they are raw text, as in lm_eval.

    Raises:
        UserError: a task is unknown, cannot be read, runs code or has questions without answers.
    """

    def __init__(self, names: Sequence[str], limit: int | None = None, chat: bool = False) -> None:
        self.chat = chat
        self.tasks: dict[str, Any] = open_tasks(names)
        self.questions: dict[str, list[int] | None] = {}
        for name, task in self.tasks.items():
            count = len(task.eval_docs)
            spread = limit is not None and limit < count
            self.questions[name] = [i * count // (limit or 1) for i in range(limit or 0)] if spread else None
            task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
            check_answers(name, task, self.questions[name])

    def described(self) -> str:
        """Returns the number of questions of each task, for people."""
        return ", ".join(
            f"{len(task.eval_docs if asked is None else asked)} questions of {name}"
            for (name, task), asked in zip(self.tasks.items(), self.questions.values(), strict=True)
        )

    def check_context(self, system: str, prompter: Prompter, context: int | None) -> None:
        """Refuses a model that cannot read the longest question with its answer; lm_eval would cut the question.

        Args:
            system: name of the model, for the message.
            prompter: its prompt format.
            context: most tokens that it reads; None if it has no limit.

        Raises:
            UserError: naming the question.
        """
        if self.chat and prompter.kind != "chat":
            raise UserError(
                f"--tasks_chat_template: {system} has no chat template; leave the option out, and the tasks are asked "
                "as raw text"
            )
        if context is None:
            return
        for name, task in self.tasks.items():
            self._build(task, prompter)
            lengths = {one.doc_id: 0 for one in task.instances}
            for one in task.instances:
                lengths[one.doc_id] = max(lengths[one.doc_id], _length(one, prompter))
            longest = max(lengths, key=lambda number: lengths[number])
            if lengths[longest] > context:
                question = (self.questions[name] or range(longest + 1))[longest]
                raise UserError(
                    f"--tasks: question {question} of {name} has {lengths[longest]} tokens with its answer, more than "
                    f"the {context} that {system} reads; leave this task out"
                )

    def answers(self, model: torch.nn.Module, prompter: Prompter) -> dict[str, Answers]:
        """Returns what a model makes of every task.

        Args:
            model: language model of transformers, in evaluation mode.
            prompter: its prompt format; only its tokenizer counts where questions are raw text.
        """
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=FEW_SHOT_SEED)
        found = evaluator.evaluate(
            lm=_Model(model, prompter),
            task_dict={"tasks": self.tasks},
            samples={name: asked for name, asked in self.questions.items() if asked is not None} or None,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=self.chat,
        )
        return {name: answers_of(task, found["samples"][name]) for name, task in self.tasks.items()}

    def _build(self, task: Any, prompter: Prompter) -> None:
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)
        task.build_all_requests(
            samples=self.questions[task.task_name],
            apply_chat_template=self.chat,
            chat_template=partial(chat_text, prompter) if self.chat else None,
        )


class _Model(HFLM):
    """A loaded model; its bars are shown in terminals alone."""

    def __init__(self, model: torch.nn.Module, prompter: Prompter) -> None:
        # lm_eval takes the softmax in the dtype of the weights, which in bfloat16 has three digits
        super().__init__(pretrained=model, tokenizer=prompter.tokenizer, batch_size=BATCH_SIZE, softmax_dtype="float32")
        self.prompter = prompter

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
        return super()._loglikelihood_tokens(requests, disable_tqdm or not sys.stderr.isatty(), override_bs)

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return chat_text(self.prompter, chat_history, add_generation_prompt)


def chat_text(prompter: Prompter, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Returns a conversation as a model's prompt format renders it.

    Args:
        prompter: the prompt format.
        messages: the conversation.
        add_generation_prompt: whether the assistant's turn is opened; otherwise the last turn is left open.
    """
    if prompter.added_system is not None and all(message["role"] != "system" for message in messages):
        messages = [{"role": "system", "content": prompter.added_system}, *messages]
    said = [{**message, "content": prompter.content(message["content"])} for message in messages]
    return str(
        prompter.tokenizer.apply_chat_template(
            said,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
    )


def _length(instance: Any, prompter: Prompter) -> int:
    """Tokens that a model must read at once for a request; long texts without a question are read in windows."""
    if instance.request_type == "loglikelihood_rolling":
        return 0
    context, answer = instance.args[:2]
    if instance.request_type == "loglikelihood":
        return len(prompter.tokenizer(context + answer)["input_ids"]) - 1  # the last one is not read
    return len(prompter.tokenizer(context)["input_ids"]) + int(answer.get("max_gen_toks", 256))
