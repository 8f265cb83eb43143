"""The doors of losses/: every Tensor says its shape, and tests refuse any other (by jaxtyping's hook and beartype)."""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from lit_instruct import losses
from lit_instruct.losses.advantages import generalized_advantages, token_rewards
from lit_instruct.losses.aggregate import aggregate
from lit_instruct.losses.correlation import correlations, cross_sums
from lit_instruct.losses.divergence import kl_estimate
from lit_instruct.losses.leave_one_out import leave_one_out
from lit_instruct.losses.masked import Moments, masked_moments, whiten
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss, explained_variance, importance_weights
from lit_instruct.losses.ranking import Ranking, ranking_loss

TOKENS, MASK = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
NARROW, WIDE = torch.zeros(2, 2), torch.ones(2, 4, dtype=torch.bool)
EPISODES, NUMBERS = torch.zeros(2), torch.zeros(2, dtype=torch.long)
SCORES = torch.zeros(2, 5)
SUMS = torch.ones(3, 3)
MOMENTS = Moments(*torch.ones(3, dtype=torch.float64))
CHECKED = {"bool", "float", "str", "tuple", "None", "Aggregate", "Estimator", "Moments", "Ranking"}
"""What an annotation in losses/ may name besides shapes; others, such as a bare Tensor or Any, check nothing."""

RIGHT: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (token_rewards, (EPISODES, TOKENS, MASK, 0.1)),
    (generalized_advantages, (TOKENS, TOKENS, MASK)),
    (kl_estimate, (TOKENS, TOKENS)),
    (masked_moments, (TOKENS, MASK)),
    (whiten, (TOKENS, MASK, MOMENTS)),
    (clipped_policy_loss, (TOKENS, TOKENS, TOKENS, MASK)),
    (importance_weights, (TOKENS, TOKENS, 2.0)),
    (clipped_value_loss, (TOKENS, TOKENS, TOKENS, MASK)),
    (explained_variance, (MOMENTS, MOMENTS)),
    (aggregate, (SCORES,)),
    (cross_sums, (SCORES,)),
    (correlations, (SUMS,)),
    (leave_one_out, (EPISODES, NUMBERS)),
    (ranking_loss, (EPISODES, NUMBERS, NUMBERS, EPISODES)),
]
WRONG: dict[int, list[Any]] = {
    id(TOKENS): [NARROW, MASK],
    id(MASK): [WIDE, TOKENS],
    id(EPISODES): [torch.zeros(3), NUMBERS],
    id(NUMBERS): [torch.zeros(3, dtype=torch.long), EPISODES],
    id(SCORES): [torch.zeros(2, 5, 1), torch.zeros(2, 5, dtype=torch.long)],
    id(SUMS): [torch.ones(3, 4), torch.ones(3, 3, dtype=torch.long)],
    id(MOMENTS): [torch.ones(3), Moments(*torch.ones(3, 2))],
}
"""For each right argument one of another shape and one of another dtype."""


@pytest.mark.parametrize(("function", "arguments"), RIGHT, ids=lambda value: getattr(value, "__name__", ""))
def test_every_argument_is_checked(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
    for place, argument in enumerate(arguments):
        for wrong in WRONG.get(id(argument), []):
            with pytest.raises(TypeCheckError):
                function(*arguments[:place], wrong, *arguments[place + 1 :])


def doors() -> Iterator[tuple[str, str, ast.expr | None]]:
    """(module, name, annotation) of every argument, return value and field of what is public in losses/."""
    for path in sorted(Path(losses.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                for argument in arguments:
                    if argument.arg != "self":
                        yield path.stem, f"{node.name}({argument.arg})", argument.annotation
                yield path.stem, f"{node.name}() ->", node.returns
            elif isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign):
                        yield path.stem, ast.unparse(field.target), field.annotation


def unchecked(annotation: ast.expr | None) -> set[str]:
    """Names in an annotation that let any shape pass; a shape is Float, Int or Bool of a Tensor with its letters."""
    if annotation is None:
        return {"no annotation"}
    match annotation:
        case ast.Subscript(ast.Name("Float" | "Int" | "Bool"), ast.Tuple([ast.Name("Tensor"), ast.Constant(str())])):
            return set()
        case ast.Name(name):
            return {name} - CHECKED
    return set().union(*(unchecked(part) for part in ast.iter_child_nodes(annotation) if isinstance(part, ast.expr)))


def test_every_tensor_that_comes_in_or_goes_out_says_its_shape() -> None:
    found = {f"{module}.{name}": names for module, name, annotation in doors() if (names := unchecked(annotation))}
    assert found == {}
    everything = {f"{module}.{name}" for module, name, _ in doors()}
    assert {"ranking.ranking_loss(margin)", "policy.explained_variance() ->", "masked.total"} <= everything


def test_every_function_with_a_tensor_is_called_above() -> None:
    takes_tensors = {name.split("(")[0] for _, name, kind in doors() if kind and "Tensor" in ast.unparse(kind)}
    of_tuples = {*Moments._fields, "mean", "variance", *Ranking._fields}
    assert takes_tensors - of_tuples == {function.__name__ for function, _ in RIGHT}


@pytest.mark.parametrize(
    "filled", [MOMENTS, masked_moments(TOKENS, MASK), ranking_loss(EPISODES, NUMBERS, NUMBERS, EPISODES)]
)
def test_fields_have_the_shapes_they_say(filled: Moments | Ranking) -> None:
    for name, kind in typing.get_type_hints(type(filled)).items():
        assert isinstance(getattr(filled, name), kind), name
