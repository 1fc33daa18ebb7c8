"""Micro-batches in turn: what is begun ahead, and what becomes of it."""

import pytest
import torch

from evosearch.budget import BudgetExhausted
from evosearch.turns import Batch, Turns
from evosearch.types import Population


class Begun:
    """A micro-batch under way; one that somebody is at cannot be left."""

    def __init__(self, number, held):
        self.number, self.held, self.left = number, held, False

    def cancel(self):
        self.left = not self.held
        return self.left


class Log:
    """Turns over numbered micro-batches, and what was done in which order."""

    def __init__(self, n=6, ahead=3, elsewhere=True, pays=99, held=()):
        self.said, self.begun, self.drawn, self.pays = [], {}, 0, pays
        self.turns = Turns(self.batches(n), self.begin, self.done, ahead=ahead, elsewhere=elsewhere)
        self.held = held

    def batches(self, n):
        for number in range(n):
            self.drawn += 1
            yield Batch(Population(torch.zeros(1, 1), 0, torch.tensor([number])), "", 1)

    def begin(self, batch, before):
        number = int(batch.p.id)
        if number >= self.pays:
            return False
        assert [int(each.p.id) for each in before] == list(range(number - len(before), number))
        batch.pending = self.begun[number] = Begun(number, number in self.held)
        self.said.append(f"begin {number}")
        return True

    def done(self, batch):
        number = int(batch.p.id)
        if number >= self.pays:
            raise BudgetExhausted
        self.said.append(f"done {number}")
        return batch.p, {}


def ended(log, error):
    """After the first of them."""
    with log.turns as turns:
        next(turns)
        raise error


def test_each_is_done_in_its_turn_and_those_after_it_have_begun_by_then():
    log = Log(n=4, ahead=3)
    with log.turns as turns:
        assert [int(p.id) for p, _ in turns] == [0, 1, 2, 3]
    assert log.said == ["begin 0", "begin 1", "begin 2", "done 0", "begin 3", "done 1", "done 2", "done 3"]


def test_no_more_are_drawn_than_may_be_under_way():
    log = Log(n=6, ahead=2)
    with log.turns as turns:
        next(turns)
        assert log.drawn == 2


def test_where_they_are_computed_here_none_begins_before_somebody_has_time():
    log = Log(n=3, ahead=1, elsewhere=False)
    with log.turns as turns:
        next(turns)
        assert log.said == ["done 0"]
        turns.begin()
        next(turns)
    assert log.said == ["done 0", "begin 1", "done 1"]


def test_what_the_budget_does_not_pay_for_does_not_begin_nor_does_what_comes_after_it():
    log = Log(n=6, ahead=4, pays=2)
    with pytest.raises(BudgetExhausted), log.turns as turns:
        list(turns)
    assert log.said == ["begin 0", "begin 1", "done 0", "done 1"]


def test_where_the_budget_ends_what_has_begun_is_left_and_not_counted():
    log = Log(n=6, ahead=4, held=(2,))
    with pytest.raises(BudgetExhausted):
        ended(log, BudgetExhausted())
    assert "done 1" not in log.said and "done 2" not in log.said
    assert log.begun[3].left and not log.begun[2].left


def test_a_search_that_has_enough_leaves_what_has_begun():
    log = Log(n=6, ahead=3)
    with log.turns as turns:
        next(turns)
    assert log.said.count("done 0") == 1 and all(log.begun[k].left for k in (1, 2))


def test_an_error_leaves_what_can_be_left_and_takes_note_of_what_somebody_is_at():
    log = Log(n=6, ahead=4, held=(1, 2))
    with pytest.raises(OSError, match="no light"):
        ended(log, OSError("no light"))
    assert log.said[-2:] == ["done 1", "done 2"]
    assert log.begun[3].left
