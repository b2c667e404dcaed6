"""The proofs of README on the digits, whose figures have bars; on photographs they are by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .benchmarks import compression, transfer

pytestmark = pytest.mark.slow


def test_compression_costs_less_than_its_bars(tmp_path: Path) -> None:
    assert compression.measure("digits", tmp_path, list(compression.WAYS)) == []


def test_fine_tuning_gains_more_than_its_bar(tmp_path: Path) -> None:
    assert transfer.digits(None, tmp_path) == []
