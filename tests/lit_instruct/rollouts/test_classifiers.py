"""Rewards from labelled sequence classifiers, against transformers' own pipeline, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from lit_instruct.errors import UserError
from lit_instruct.rollouts.classifiers import Classifier, classifier_named
from lit_instruct.rollouts.function_names import function_name
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.lit_instruct.rollouts.classifier_folders import LABELS, distilbert

PROMPTS = ["The weather is", "What is the", "I am happy to", "the sea and the wind"]
RESPONSES = ["wonderful today, and the children are playing", "capital?", "help you with that.", ""]
TEXTS = [f"{prompt} {response}" for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
NO_ROWS = [{}] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distilbert(tmp_path_factory.mktemp("classifiers") / "sentiment", initializer_range=0.3)


def outputs(folder: Path, texts: list[str], function: str) -> list[dict[str, float]]:
    """Label -> score of each text by transformers' pipeline, one text at a time."""
    pipe = pipeline("text-classification", model=str(folder), device="cpu", dtype=torch.float32)
    found = [pipe([text], top_k=None, function_to_apply=function)[0] for text in texts]
    return [{one["label"]: one["score"] for one in scores} for scores in found]


@pytest.mark.parametrize("label", LABELS.values())
def test_the_score_is_the_label_s_probability_of_prompt_and_response(folder: Path, label: str) -> None:
    score = function_scorer(f"classifier:{folder}#{label}", option="--labeler")
    expected = [scores[label] for scores in outputs(folder, TEXTS, "softmax")]
    assert score(PROMPTS, RESPONSES, NO_ROWS) == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 3) for one in expected}) == 4
    assert score(PROMPTS, RESPONSES, NO_ROWS) == score(PROMPTS, RESPONSES, NO_ROWS)
    assert score([], [], []) == []


def test_the_words_behind_the_label(folder: Path) -> None:
    logits = [scores["POSITIVE"] for scores in outputs(folder, TEXTS, "none")]
    alone = [scores["POSITIVE"] for scores in outputs(folder, RESPONSES, "softmax")]
    both = [scores["POSITIVE"] for scores in outputs(folder, RESPONSES, "none")]
    for words, expected in (("logit", logits), ("response", alone), ("logit,response", both)):
        score = function_scorer(f"classifier:{folder}#POSITIVE,{words}")
        assert score(PROMPTS, RESPONSES, NO_ROWS) == pytest.approx(expected, abs=1e-5), words


def test_a_column_stands_before_the_prompt_and_white_space_is_not_doubled(folder: Path) -> None:
    score = function_scorer(f"classifier:{folder}#POSITIVE")
    rows = [{"before_prompt": "Write a poem. "}, {}, {"before_prompt": None}]
    found = score(["The sea", "The sea\n", ""], ["and the wind"] * 3, rows)
    texts = ["Write a poem. The sea and the wind", "The sea\nand the wind", "and the wind"]
    assert found == pytest.approx([one["POSITIVE"] for one in outputs(folder, texts, "softmax")], abs=1e-5)


def test_several_labels_at_once_take_the_sigmoid(tmp_path: Path) -> None:
    labels = {0: "toxic, very", 1: "insult", 2: "threat"}
    folder = distilbert(tmp_path / "toxic", labels, problem_type="multi_label_classification")
    expected = [scores["toxic, very"] for scores in outputs(folder, TEXTS, "sigmoid")]
    score = function_scorer(f"classifier:{folder}#toxic, very")
    assert score(PROMPTS, RESPONSES, NO_ROWS) == pytest.approx(expected, abs=1e-5)


def test_of_a_long_text_the_end_is_read(folder: Path) -> None:
    classifier = Classifier(str(folder), "POSITIVE")
    start, end = "wonderful " * 100, "the cat sat on the mat " * 30
    assert classifier.scores([start + end]) == pytest.approx(classifier.scores(["happy " + end]), abs=1e-6)
    assert classifier.scores([end + start]) != pytest.approx(classifier.scores([end]), abs=1e-3)


def test_a_model_that_counts_positions_from_its_padding_id_reads_less(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = distilbert(tmp_path / "roberta", kind="roberta", pad_token_id=1, max_position_embeddings=40, **sizes)
    (score,) = Classifier(str(folder), "POSITIVE").scores(["wonderful " * 100])
    assert 0 < score < 1


def test_a_decoder_with_labels_is_read_at_its_last_token(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "pad_token_id": None}
    folder = distilbert(tmp_path / "decoder", kind="gpt2", **sizes)
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    classifier = Classifier(str(folder), "POSITIVE")
    together = classifier.scores(TEXTS)
    assert together == pytest.approx([classifier.scores([text])[0] for text in TEXTS], abs=1e-5)


def test_it_leaves_the_random_state_alone_and_is_opened_once(folder: Path) -> None:
    state, spec = torch.get_rng_state(), f"classifier:{folder}#NEGATIVE"
    function_scorer(spec)(PROMPTS, RESPONSES, NO_ROWS)
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier_named(spec) is classifier_named(spec)
    assert not classifier_named(spec).classifier.model.training
    assert function_name(spec) == spec


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        function_scorer(spec, option="--model.reward.function")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    assert (
        refusal(f"classifier:{folder}#GOOD") == f"{folder}: it has no label 'GOOD'; its labels are NEGATIVE, POSITIVE"
    )
    for spec in (f"classifier:{folder}", f"classifier:{folder}#", "classifier:#POSITIVE"):
        assert (
            refusal(spec) == f"{spec}: give classifier:NAME#LABEL, such as classifier:lvwerra/distilbert-imdb#POSITIVE"
        )
    assert "no such folder" in refusal(f"classifier:{tmp_path}/none#POSITIVE")
    one = distilbert(tmp_path / "one", {0: "LABEL_0"})
    assert "it has one output, so there are no labels to choose from" in refusal(f"classifier:{one}#LABEL_0")
    score = function_scorer(f"classifier:{one}#LABEL_0,logit")
    assert score(["The sea"], ["is"], [{}]) == pytest.approx(
        [outputs(one, ["The sea is"], "none")[0]["LABEL_0"]], abs=1e-5
    )


def test_without_the_hub_a_sentence_says_so() -> None:
    expected = (
        "nobody/no-classifier: cannot open this sequence classifier (the hub cannot be reached, and the model is not "
        "in its cache); give a hub id or a folder"
    )
    assert refusal("classifier:nobody/no-classifier#POSITIVE") == expected


def test_no_random_head_and_nothing_pickled(folder: Path, tmp_path: Path) -> None:
    for name in ("headless", "pickled"):
        (tmp_path / name).mkdir()
        for path in folder.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    headless = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    save_file(headless, tmp_path / "headless/model.safetensors", {"format": "pt"})
    assert "2 of the weights of DistilBertForSequenceClassification are missing" in refusal(
        f"classifier:{tmp_path}/headless#POSITIVE"
    )
    torch.save(weights, tmp_path / "pickled/pytorch_model.bin")
    (tmp_path / "pickled/model.safetensors").unlink()
    assert "cannot open this sequence classifier" in refusal(f"classifier:{tmp_path}/pickled#POSITIVE")
