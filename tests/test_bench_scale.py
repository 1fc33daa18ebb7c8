"""`bench scale`: the simulation against what must come of it, and against real workers."""

import pytest
from typer.testing import CliRunner

from evosearch.bench.scale import Times, Trouble, simulate, table, waves_of
from evosearch.cli import app
from evosearch.declaration import Wave

TIMES = Times(step=1.0, decode=0.5, score=0.25, call=0.0)


def test_one_worker_takes_the_sum():
    found = simulate([Wave(8, 10)], TIMES, 1, batch_size=4)
    assert found.seconds == pytest.approx(2 * (10 + 0.5 + 0.25)) and found.busy == pytest.approx(1)


def test_workers_share_what_a_wave_has():
    waves = [Wave(32, 10), Wave(4, 5)]
    assert simulate(waves, TIMES, 4, batch_size=4).seconds == pytest.approx(2 * 10.75 + 5.75)
    assert simulate(waves, TIMES, 8, batch_size=4).seconds == pytest.approx(10.75 + 5.75)
    assert simulate(waves, TIMES, 64, batch_size=4).seconds == pytest.approx(10.75 + 5.75)


def test_prompts_fill_what_one_leaves_idle():
    waves = [Wave(4, 10)] * 3
    alone, four = (simulate(waves, TIMES, 4, batch_size=4, prompts=n) for n in (1, 4))
    assert alone.busy == pytest.approx(0.25) and four.busy == pytest.approx(1)
    assert four.seconds == pytest.approx(alone.seconds)


def test_the_process_that_searches_is_a_limit():
    times = Times(1.0, 0.0, 0.0, 0.1)
    found = simulate([Wave(4 * 400, 1, scores=0)], times, 64, batch_size=4)
    assert found.seconds == pytest.approx(400 * 0.1, rel=0.1) and found.driver > 0.9


def test_the_search_itself_takes_its_time_while_workers_are_at_work():
    times = Times(1.0, 0.0, 0.0, 0.0, own=0.5)
    assert simulate([Wave(4 * 10, 1, scores=0)], times, 1, batch_size=4).seconds == pytest.approx(10.5)
    assert simulate([Wave(4 * 10, 1, scores=0)], times, 8, batch_size=4).seconds == pytest.approx(1 + 10 * 0.5)


def test_what_was_begun_is_ended_first():
    times = Times(1.0, 0.0, 1.0, 0.0, own=0.0)
    found = simulate([Wave(4 * 3, 8)], times, 2, batch_size=4)
    assert found.seconds == pytest.approx(18)  # both score before one begins the third


def test_what_is_lost_is_done_again():
    trouble = Trouble(losses=60, reload=30)
    found = simulate([Wave(4 * 100, 10)], TIMES, 4, batch_size=4, trouble=trouble)
    assert found.lost > 0 and found.seconds > simulate([Wave(4 * 100, 10)], TIMES, 4, batch_size=4).seconds
    assert found.busy * found.seconds * 4 == pytest.approx(100 * 10.75)  # of use is each once


def test_slow_workers_take_less():
    found = [
        simulate([Wave(4 * 64, 10)], TIMES, 8, batch_size=4, trouble=Trouble(spread=0.3), seed=k) for k in range(5)
    ]
    even = simulate([Wave(4 * 64, 10)], TIMES, 8, batch_size=4)
    assert sum(one.seconds for one in found) / 5 > even.seconds and len({one.seconds for one in found}) == 5


def test_the_table_says_where_it_breaks():
    few = table(waves_of("evosearch", 20, 2000), TIMES, batch_size=4, prompts=1, trouble=Trouble())
    assert "fewer micro-batches under way than workers" in few
    slow = Times(1.0, 0.0, 0.0, 0.5)
    assert "process that searches is at its limit" in table(
        [Wave(4 * 5000, 1, scores=0)], slow, batch_size=4, prompts=1, trouble=Trouble()
    )


def test_the_command_measures_and_simulates():
    done = CliRunner().invoke(app, ["bench", "scale", "--budget", "200", "--steps", "5"])
    assert done.exit_code == 0, done.output
    assert "1,024" in done.output and "a micro-batch takes: a step" in done.output
    wrong = CliRunner().invoke(app, ["bench", "scale", "--times", "1,2"])
    assert wrong.exit_code == 2 and "--times must be four numbers" in wrong.output
