"""An exported reward model in plain transformers scores conversations as `rm score` does, whatever its template."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_instruct.exporting.export import export
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.rollouts.text_reward import TextReward

TEMPLATES = {
    "ChatML": None,
    "without a newline": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Llama 3": "{% for m in messages %}{% set text = '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim +"
    " '<|im_end|>' %}{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}",
    "no end of turn": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}\n",
    "another turn after the end": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>\n \n' if m['role'] == 'assistant' else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
ROWS = [("the cat sings", "good good rain"), ("Is it <|im_end|> odd?", "the dog\nruns"), ("sun", "x")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_scored_at_their_end(tmp_path: Path, trained: Path, name: str) -> None:
    source = Path(shutil.copytree(trained / "rm", tmp_path / "rm"))
    if (template := TEMPLATES[name]) is not None:
        (source / "chat_template.jinja").write_text(template)
    export(ExportOptions(str(source), str(tmp_path / "out")))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.reward_bias != 0
    rows = [ROWS[0], ROWS[2]]
    ours = TextReward.from_source(str(source), "float32").score(*zip(*rows, strict=True))
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}] for prompt, response in rows
    ]
    for padded in (conversations, conversations[:1], conversations[1:]):
        ids = tokenizer.apply_chat_template(padded, return_tensors="pt", return_dict=True, padding=True)
        with torch.no_grad():
            theirs = model(**ids).logits[:, 0] + model.config.reward_bias
        wanted = ours if len(padded) == 2 else ours[:1] if padded == conversations[:1] else ours[1:]
        assert theirs.tolist() == pytest.approx(wanted, abs=1e-5)
    # lit-instruct reads the export as it reads the stage
    again = TextReward.from_source(str(tmp_path / "out"), "float32")
    assert again.score(*zip(*ROWS, strict=True)) == pytest.approx(
        TextReward.from_source(str(source), "float32").score(*zip(*ROWS, strict=True)), abs=1e-5
    )


def test_prompts_and_unfinished_conversations_stay(tmp_path: Path, trained: Path) -> None:
    export(ExportOptions(str(trained / "rm"), str(tmp_path / "out")))
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (trained / "sft", tmp_path / "out"))
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for generation in (True, False):
        options = {"tokenize": False, "add_generation_prompt": generation}
        assert theirs.apply_chat_template(turns, **options) == ours.apply_chat_template(turns, **options)
    answered = [*turns, {"role": "assistant", "content": "a"}]
    text = ours.apply_chat_template(answered, tokenize=False)
    assert text.endswith("<|im_end|>\n")
    assert theirs.apply_chat_template(answered, tokenize=False) == text.removesuffix("\n")
