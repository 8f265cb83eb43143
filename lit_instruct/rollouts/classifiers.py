"""Rewards from sequence classifiers with labels: `classifier:NAME#LABEL` wherever a scoring function is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import torch

from lit_instruct.batches import length_batches, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.packing import enough_tokens
from lit_instruct.models.classifiers import load_classifier
from lit_instruct.rollouts.function_forms import Columns

SCHEME = "classifier:"
FORM = f"{SCHEME}NAME#LABEL, such as {SCHEME}lvwerra/distilbert-imdb#POSITIVE"
LOGIT, RESPONSE = "logit", "response"
"""Words that may follow the label."""
NAMED = re.compile(r"classifier:(?P<name>[^#]+)#(?P<label>.+?)(?P<logit>,logit)?(?P<response>,response)?")
BEFORE = "before_prompt"
"""Column of the data with text that stands before the prompt."""
BATCH_TOKENS = 8192
"""Most tokens of a batch, padding included."""
OPEN = 4
"""Most classifiers that stay in memory: reward and labelers may be the same one."""


class Classifier:
    """A sequence classifier that scores prompt and response as one text.

    A score is the probability of the label: the softmax over all labels, or the sigmoid of its own output where the
    model's config says `multi_label_classification`. A probability has bounds, so scores of different classifiers have
    one scale, and one text cannot outweigh a batch; the logit has none, and keeps a slope where the classifier is sure.

    The text is the prompt and its continuation, after the column `before_prompt` of the data's row where it has one. A
    response comes without the white space around it, so a space goes before it. Of a text that is too long, the end is
    read.

    Args:
        model: hub id or folder of the classifier.
        label: one of its labels.
        logit: whether the score is the label's output instead of its probability.
        response_alone: whether the prompt is left out of the text.

    Raises:
        UserError: it cannot be opened, has no such label, or only one output, which has no probability.
    """

    def __init__(self, model: str, label: str, logit: bool = False, response_alone: bool = False) -> None:
        self.classifier = load_classifier(model, label)
        self.logit = logit
        self.response_alone = response_alone
        config = self.classifier.model.config
        self.sigmoid = config.problem_type == "multi_label_classification"
        if config.num_labels == 1 and not logit:
            raise UserError(
                f"{model}: it has one output, so there are no labels to choose from; a causal reward model is given by "
                f"--model.reward.model, and the output of any other as it is by {SCHEME}{model}#{label},{LOGIT}"
            )

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Columns]) -> list[float]:
        """Returns one score per response; the same texts get the same scores."""
        return self.scores([self._text(*given) for given in zip(prompts, responses, rows, strict=True)])

    def _text(self, prompt: str, response: str, row: Columns) -> str:
        if self.response_alone:
            return response
        given = f"{row.get(BEFORE) or ''}{prompt}"
        return f"{given}{'' if not given or given[-1].isspace() else ' '}{response}"

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Returns the score of each text, in float32, on this process's GPU if it has one."""
        model, tokenizer, column, longest, pad_id = self.classifier
        encoded = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"] if texts else []
        ids = [list(one) or [pad_id] for one in encoded]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        scores = [0.0] * len(ids)
        for batch in length_batches([len(one) for one in ids], tokens=enough_tokens(BATCH_TOKENS, device.type)):
            padded, mask = right_pad([ids[i] for i in batch], pad_id)
            with torch.autocast(device.type, enabled=False):
                outputs = model(input_ids=padded.to(device), attention_mask=mask.long().to(device)).logits.float()
            for row, score in zip(batch, self._scored(outputs)[:, column].tolist(), strict=True):
                scores[row] = score
        return scores

    def _scored(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.logit:
            return outputs
        return outputs.sigmoid() if self.sigmoid else outputs.softmax(dim=-1)


@lru_cache(maxsize=OPEN)
def classifier_named(spec: str) -> Classifier:
    """Returns the classifier of `classifier:NAME#LABEL`, to which `,logit` and `,response` may be added in this order.

    Raises:
        UserError: it has another form, or cannot be opened.
    """
    found = NAMED.fullmatch(spec)
    if found is None:
        raise UserError(f"{spec}: give {FORM}")
    return Classifier(found["name"], found["label"], found["logit"] is not None, found["response"] is not None)
