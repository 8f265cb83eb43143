"""Prompt format and sampling of a stage for plain transformers: chat template and generation config."""

from __future__ import annotations

import copy
import json
from typing import Any

from transformers import GenerationConfig

from lit_instruct.prompting import Prompter
from lit_instruct.prompting.chat_template import ChatTemplate

WITH_SYSTEM = (
    "{{%- if not messages or messages[0]['role'] != 'system' -%}}"
    "{{%- set messages = [{{'role': 'system', 'content': {system}}}] + messages -%}}"
    "{{%- endif -%}}"
)
"""Prepended to a chat template whose default system prompt differs from that of the training."""

ENDED = (
    "{{% set whole +%}}{template}{{%+ endset %}}"
    "{{% if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt"
    " and whole.endswith({tail}) %}}"
    "{{{{ whole[: whole | length - {length}] + {end} }}}}"
    "{{% else %}}{{{{ whole }}}}{{% endif %}}"
)
"""A template whose conversations end with the EOS and nothing such as a newline after it: a classifier scores the last
token."""


def exported_prompter(prompter: Prompter, for_scores: bool = False) -> Prompter:
    """Returns the prompt format with a tokenizer whose `apply_chat_template` gives the same ids.

    The system prompt of the training (usually none) moves into the template; a model trained on raw text has none.

    Args:
        prompter: of the stage.
        for_scores: of a reward model: a conversation then ends with the EOS, whose score counts.
    """
    tokenizer = copy.deepcopy(prompter.tokenizer)
    if prompter.kind == "raw":
        tokenizer.chat_template = None
        return Prompter(tokenizer, "raw", more_stop_ids=prompter.more_stop_ids)
    if prompter.added_system is not None:
        put_in = WITH_SYSTEM.format(system=json.dumps(prompter.content(prompter.added_system), ensure_ascii=False))
        tokenizer.chat_template = put_in + tokenizer.get_chat_template()
    if for_scores:
        tail, end = ChatTemplate(tokenizer).end_of_turn(), tokenizer.convert_ids_to_tokens(prompter.eos_id)
        quoted = {"tail": json.dumps(tail, ensure_ascii=False), "end": json.dumps(end, ensure_ascii=False)}
        template = tokenizer.get_chat_template().removesuffix("\n")  # as jinja does
        tokenizer.chat_template = ENDED.format(template=template, length=len(tail), **quoted)
    return Prompter(tokenizer, "chat", prompter.system, prompter.more_stop_ids)


def generation_config(prompter: Prompter, sampling: dict[str, Any] | None) -> GenerationConfig:
    """Returns the sampling settings of the training for plain transformers.

    Args:
        prompter: has the ids that end a response and that pad.
        sampling: the sampling options of PPO; None samples from the model's own distribution.
    """
    options = sampling or {}
    config = GenerationConfig(
        do_sample=True,
        temperature=float(options.get("temperature", 1.0)),
        top_p=float(options.get("top_p", 1.0)),
        top_k=int(options.get("top_k", 0)),
        eos_token_id=list(dict.fromkeys([*prompter.stop_ids, *options.get("stop_ids", [])])),
        pad_token_id=prompter.tokenizer.pad_token_id,
    )
    if options.get("max_new_tokens"):
        config.max_new_tokens = int(options["max_new_tokens"])
    return config
