"""A random Llama small enough for unit tests, as a Hugging Face folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SENTENCES = [
    "Write a short poem about the sea and the wind.",
    "What is the capital of France? The capital of France is Paris.",
    "Summarize the following text in one sentence: the cat sat on the mat.",
    "I am happy to help you with that. Here is a list of ideas:",
    "The weather is wonderful today, and the children are playing in the garden.",
    "Please rewrite this sentence so that it sounds more polite and friendly.",
    "user system assistant You are a helpful assistant named Tiny.",
    "Numbers such as 0123456789 and signs like !?.,:;-()'\" are common.",
]
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2; the last is EOS
DEFAULT_SYSTEM = "You are a helpful assistant named Tiny."
# Like SmolLM2's template, default system prompt included.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    f"{{{{ '<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n' }}}}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens with a ChatML template (without one if not `chat`)."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tiny_llama(folder: str | Path, seed: int = 0, **other: float) -> Path:
    """Writes a random Llama (4 layers of width 32, unless `other` says so) and its tokenizer to `folder`."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            **other,
        },
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return str(tokenizer.to_str())
