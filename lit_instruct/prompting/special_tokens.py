"""Special tokens of a tokenizer: which ones nobody can type, which one pads, which ones end a response."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from lit_instruct.errors import UserError

BRACKETED = re.compile(r"[<\[{(|].*\w.*[>\]})|]")
"""What tokens of a chat template look like: <|im_end|>, [INST], <start_of_turn>."""


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Returns id -> text of every special token: those with a name (eos_token, ...), and those that are only marked as
    special in tokenizer.json or in `added_tokens_decoder`."""
    marked = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special and str(token)}
    return marked | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def mark_as_special(tokenizer: PreTrainedTokenizerBase, template: str, rendered: str) -> None:
    """Marks the tokens with which a chat template separates turns as special, where the tokenizer does not.

    They can then not be typed, and are no part of a response's text. Pairs such as <think> and </think> are left alone:
    they mark up a response.

    Args:
        tokenizer: marked in place; ids stay as they are.
        template: source of the chat template.
        rendered: a conversation in it, because some templates build these tokens from pieces.
    """
    added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    wanted = [
        AddedToken(
            text,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=True,
        )
        for text, token in added.items()
        if not token.special and BRACKETED.fullmatch(text) and not _is_markup(text, added)
        if text in rendered or text in template
    ]
    if wanted:
        tokenizer.add_tokens(wanted, special_tokens=True)


def _is_markup(text: str, added: dict[str, AddedToken]) -> bool:
    """Tells whether a token is one of a pair, such as <think> and </think>."""
    other = f"<{text[2:]}" if text.startswith("</") else f"</{text[1:]}"
    return text.startswith("<") and other in added


def check_no_word_is_special(tokenizer: PreTrainedTokenizerBase, special: dict[int, str]) -> None:
    """Raises a UserError if a special token is an ordinary word, such as "!", which would vanish from responses."""
    for token_id, text in special.items():
        if BRACKETED.fullmatch(text):
            continue
        if tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) == [token_id]:
            use = "as padding" if token_id == tokenizer.pad_token_id else "as a special token"
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer uses the ordinary word {text!r} {use}, so that it would "
                "vanish from every response; take it out of tokenizer_config.json and of added_tokens in tokenizer.json"
            )


def choose_padding(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], special: dict[int, str]) -> int:
    """Gives the tokenizer a special token to pad with, and returns the id that fills up batches.

    It is another one than those that end a response, so that padding is never mistaken for an end. A tokenizer without
    such a token pads with its end, and batches are filled up with a word that all code masks.

    Args:
        tokenizer: changed in place.
        stop_ids: ids that end a response.
        special: id -> text of the special tokens.
    """
    named = sorted(special, key=lambda i: "pad" not in special[i].lower())
    spare = (i for i in (tokenizer.pad_token_id, tokenizer.unk_token_id, *named) if i is not None and i not in stop_ids)
    pad_id = next(spare, None)
    if pad_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
        return int(pad_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    return next(i for i in range(len(stop_ids) + 1) if i not in stop_ids)
