"""Tokenizers with the special tokens and templates of other model families."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + (m['content'] | trim) + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def with_tokens(template: str | None, *tokens: str, special: bool = True, **names: Any) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are marked in tokenizer.json alone: only those in `names` have a name.

    Ids: 0 <|pad|>, 1 <|im_start|>, 2 <|im_end|>, and `tokens` from 400.
    """
    backend = Tokenizer.from_str(tiny_tokenizer(chat=False).backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    tokenizer.chat_template = template
    return tokenizer


def phi3() -> PreTrainedTokenizerFast:
    """Turns end with <|end|>, id 400; the named end is another one, id 404."""
    tokens = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>"]
    return with_tokens(PHI3, *tokens, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def llama3() -> PreTrainedTokenizerFast:
    """Turns end with <|eot_id|>, id 404; the named end is another one, id 401."""
    tokens = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return with_tokens(LLAMA3, *tokens, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def only_end(**names: str) -> PreTrainedTokenizerFast:
    """GPT-2's kind: the only special token is the end, <|im_end|> (id 2), and id 0 is "!"."""
    state = json.loads(tiny_tokenizer(chat=False).backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<|im_end|>"]
    state["model"]["vocab"] |= {"!": 0, "<|pad|>": 3}
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", **names)
