"""Public dataset layouts -> the fields of data_modules.rows.

| rows | layouts, as in --data.format |
|---|---|
| demonstrations | prompt-response, prompt-completion (TRL, text or messages), messages, sharegpt, alpaca, dolly |
| comparisons | ranked, scored, scored-rows (HelpSteer2), nemo-rl, ultrafeedback, nectar, summarize-from-feedback, webgpt, oasst-trees, oasst-messages, argilla, label-studio, hh-rlhf, preference (TRL, explicit or implicit prompt, text or messages) |
| prompts | prompt, messages, conversation (LMSYS-Chat, WildChat: first user turn), conversations, text (one a line) |

A prompt is a text or a list of messages. Every other field of a record is kept as it is.
"""  # noqa: E501

from data_modules.formats.comparisons import COMPARISON_LAYOUTS
from data_modules.formats.demonstrations import DEMONSTRATION_LAYOUTS
from data_modules.formats.layout import Layout, Record, detect, find
from data_modules.formats.prompts import PROMPT_LAYOUTS, TEXT_FORMAT

__all__ = [
    "COMPARISON_LAYOUTS",
    "DEMONSTRATION_LAYOUTS",
    "PROMPT_LAYOUTS",
    "TEXT_FORMAT",
    "Layout",
    "Record",
    "detect",
    "find",
]
