"""Prompts and responses as token ids: the prompt format, the chat template and the special tokens."""

from lit_instruct.prompting.prompter import Message, Prompt, Prompter, Template, prompt_text

__all__ = ["Message", "Prompt", "Prompter", "Template", "prompt_text"]
