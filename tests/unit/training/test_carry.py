"""Rows that follow their codes when the tokenizer says other ones."""

import torch

from training.carry import CODES, carried


def test_renumbered_codes_take_their_rows_with_them():
    rows, order = torch.randn(CODES, 4), torch.randperm(CODES)
    counts = torch.zeros(CODES, CODES)
    counts[torch.arange(CODES), order] = 3.0  # new code k is what old code order[k] was
    torch.testing.assert_close(carried(rows, counts), rows[order])


def test_a_code_between_two_is_their_mean_by_how_often():
    rows, counts = torch.randn(CODES, 4), torch.eye(CODES)
    counts[7] = 0
    counts[7, 2], counts[7, 5] = 1.0, 3.0
    torch.testing.assert_close(carried(rows, counts)[7], 0.25 * rows[2] + 0.75 * rows[5])


def test_a_code_that_was_never_said_keeps_its_row():
    rows, counts = torch.randn(CODES, 4), torch.eye(CODES)
    counts[9] = 0
    torch.testing.assert_close(carried(rows, counts), rows)
