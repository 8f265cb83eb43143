"""Masked statistics: literals, merging of batches, garbage behind the mask."""

from __future__ import annotations

import pytest
import torch

from lit_instruct.losses.masked import Moments, masked_moments, whiten


def test_moments_literal() -> None:
    moments = masked_moments(torch.tensor([1.0, 2.0, 6.0, float("nan")]), torch.tensor([True, True, True, False]))
    assert [part.item() for part in moments] == [3.0, 9.0, 41.0]
    assert moments.mean.item() == 3.0
    assert moments.variance.item() == pytest.approx(7.0)  # unbiased: (4 + 1 + 9) / 2


@pytest.mark.parametrize("values", [[], [5.0]])
def test_few_values_have_no_variance(values: list[float]) -> None:
    moments = masked_moments(torch.tensor(values), torch.ones(len(values), dtype=torch.bool))
    assert moments.mean.item() == sum(values)
    assert moments.variance.item() == 0.0


def test_whiten_literal() -> None:
    values = torch.tensor([[1.0, 3.0, 1e6]])
    mask = torch.tensor([[True, True, False]])
    moments = masked_moments(values, mask)  # mean 2, variance 2
    root = 2**-0.5
    torch.testing.assert_close(whiten(values, mask, moments), torch.tensor([[-root, root, 0.0]]))
    kept = whiten(values, mask, moments, keep_mean=True)
    torch.testing.assert_close(kept, torch.tensor([[2 - root, 2 + root, 0.0]]))


def test_merged_moments_are_those_of_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 100 + torch.randn(6, 5, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.6
    parts = [masked_moments(values[rows], mask[rows]) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    merged = Moments(*(sum(part[1:], part[0]) for part in zip(*parts, strict=True)))
    real = values[mask].double()
    torch.testing.assert_close(merged.mean, real.mean())
    torch.testing.assert_close(merged.variance, real.var())
    halves = torch.cat([whiten(values[:3], mask[:3], merged), whiten(values[3:], mask[3:], merged)])
    whole = whiten(values, mask, masked_moments(values, mask))
    torch.testing.assert_close(halves, whole)
    torch.testing.assert_close(whole[mask].mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole[mask].std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert whole.dtype == torch.float32
