"""How an endpoint is asked: time-outs, retries, waits, the circuit breaker, concurrency, money and the key."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from email.utils import formatdate

import judges
import pytest
import torch

from evosearch import rewards
from evosearch.rewards.judge import Judge, JudgeError, Patience
from evosearch.rewards.judge_breaker import Breaker, Stopped
from evosearch.rewards.judge_http import endpoint
from evosearch.rewards.judge_lanes import Lanes

KEY = "sk-test-5e3c7e7"


def judge_of(server, **kwargs):
    """A judge in a hurry."""
    patience = {"first": 0.005, "longest": 0.05, "cool": 0.05, **kwargs.pop("patience", {})}
    url = server if isinstance(server, str) else server.url
    return Judge(url, "toy-judge", scale=(0, 10), patience=Patience(**patience), **{"timeout": 5, **kwargs})


def scored(judge, samples):
    return judge(samples, ["a prompt"] * len(samples))


REASONS = {
    "429": "HTTP 429", "429 after": "HTTP 429", "500": "HTTP 500", "503": "HTTP 503", "reset": "connection lost: ",
    "silent": "time-out", "dribble": "time-out", "cut body": r"connection lost: \d+ of \d+ bytes came",
    "cut JSON": "JSON that is broken or cut off", "cut by length": "the answer was cut off",
    "text": "a score that is str",
    "true": "a score that is bool", "null": "a score that is missing", "NaN": "a score out of range",
    "out of range": "a score out of range", "two scores": "several scores", "huge": "answer of more than 262,144 bytes",
    "huge by its length": "answer of more than 262,144 bytes", "html": "the answer is no JSON",
    "no choice": "the answer has",
}  # fmt: skip


def only_first(fault, times=1):
    return lambda picture, attempt: fault if attempt < times else None


# faults


@pytest.mark.parametrize("fault", judges.FAULTS)
def test_every_fault_is_got_over_by_one_retry(fault):
    samples = judges.swatches(2)
    with judges.FakeJudge(only_first(fault)) as server:
        judge = judge_of(server, timeout=0.3 if fault in ("silent", "dribble") else 5)
        values = scored(judge, samples)
    assert torch.allclose(values.double(), 10 * judges.meant(samples), atol=1e-5)
    assert (judge.stats.calls, judge.stats.retried, judge.missing) == (4, 2, 0)
    assert sum(judge.stats.failures.values()) == server.injected[fault] == 2


@pytest.mark.parametrize("fault", judges.FAULTS)
def test_a_fault_that_stays_makes_the_sample_missing_and_no_other(fault):
    samples = judges.swatches(3)
    bad = round(float(judges.meant(samples)[1]) * 65535)
    with judges.FakeJudge(lambda picture, attempt: fault if picture == bad else None) as server:
        judge = judge_of(server, retries=1, timeout=0.3 if fault in ("silent", "dribble") else 5)
        values = scored(judge, samples)
    assert values.isnan().tolist() == [False, True, False]
    assert (judge.missing, judge.stats.scored, server.injected[fault]) == (1, 2, 2)
    (reason,) = judge.stats.reasons
    assert re.match(REASONS[fault], reason) and judge.stats.failures == {reason: 2}
    assert server.written < 40 * 2**20  # what the system takes in before it is read


def test_at_thirty_percent_faults_nearly_all_are_scored_and_every_score_is_the_samples_own():
    samples = judges.swatches(800)
    with judges.FakeJudge(judges.faulty(0.3, seed=3)) as server:
        judge = judge_of(server, timeout=0.6, deadline=30, concurrency=16)
        start = time.monotonic()
        values = scored(judge, samples)
        seconds = time.monotonic() - start
    known = values.isfinite()
    assert known.float().mean() >= 0.995, judge.stats
    assert torch.allclose(values[known].double(), 10 * judges.meant(samples)[known], atol=1e-5)
    assert values[~known].isnan().all() and not (values == 0).any()
    assert judge.missing == int((~known).sum()) and judge.stats.scored == int(known.sum())
    assert set(server.injected) == set(judges.FAULTS)
    assert sum(server.injected.values()) > 0.25 * len(server.bodies)
    assert seconds < 30


def test_nothing_is_tried_again_that_is_wrong_with_the_request():
    refusal = (400, b'{"error": {"message": "image too small"}}', {})
    with judges.FakeJudge(lambda picture, attempt: refusal) as server:
        judge = judge_of(server)
        assert scored(judge, judges.swatches(3)).isnan().all()
        assert len(server.bodies) == 3
    assert judge.stats.reasons == {"HTTP 400 (image too small)": 3}


def test_answers_in_chunks_are_read(monkeypatch):
    def chunked(self, handler, answer, status=200, headers=None):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(status)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for byte in json.dumps(answer).encode():
            handler.wfile.write(b"1\r\n" + bytes([byte]) + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    monkeypatch.setattr(judges.FakeJudge, "_send", chunked)
    with judges.FakeJudge() as server:
        assert scored(judge_of(server, retries=0), judges.swatches(1)).isfinite().all()


def test_redirects_are_not_followed():
    with judges.FakeJudge() as other:
        moved = (307, b"", {"Location": f"{other.url}/chat/completions"})
        with judges.FakeJudge(lambda picture, attempt: moved) as server, pytest.raises(JudgeError, match="HTTP 307"):
            scored(judge_of(server), judges.swatches(1))
        assert not other.bodies


# time


@pytest.mark.parametrize("fault", ["silent", "dribble"])
def test_a_request_ends_in_time(fault):
    with judges.FakeJudge(lambda picture, attempt: fault) as server:
        judge = judge_of(server, retries=0, timeout=0.3)
        start = time.monotonic()
        assert scored(judge, judges.swatches(1)).isnan().all()
        assert 0.25 < time.monotonic() - start < 2
    assert judge.stats.reasons == {"time-out": 1}


def test_a_body_that_dribbles_ends_in_time(monkeypatch):
    def slowly(self, handler, answer, status=200, headers=None):
        handler.send_response(status)
        handler.end_headers()
        for _ in range(100):
            self.closing.wait(0.03)
            handler.wfile.write(b" ")

    monkeypatch.setattr(judges.FakeJudge, "_send", slowly)
    with judges.FakeJudge() as server:
        judge = judge_of(server, retries=0, timeout=0.3)
        start = time.monotonic()
        assert scored(judge, judges.swatches(1)).isnan().all()
        assert 0.25 < time.monotonic() - start < 2


def test_a_connection_that_does_not_come_about_ends_in_time():
    with ExitStack() as stack, closing(socket.socket()) as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [stack.enter_context(closing(socket.socket())) for _ in range(4)]
        for each in crowd:  # what waits to be accepted fills the queue
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        judge = judge_of(f"http://127.0.0.1:{full.getsockname()[1]}", retries=0, timeout=20, patience={"connect": 0.2})
        start = time.monotonic()
        assert scored(judge, judges.swatches(1)).isnan().all()
        assert 0.15 < time.monotonic() - start < 2
    assert judge.stats.reasons == {"no connection: timed out": 1}


def test_an_answer_may_take_longer_than_connecting():
    with judges.FakeJudge(seconds=0.4) as server:
        judge = judge_of(server, retries=0, patience={"connect": 0.2})
        assert scored(judge, judges.swatches(1)).isfinite().all()


def test_a_sample_has_a_deadline():
    with judges.FakeJudge(lambda picture, attempt: "503") as server:
        judge = judge_of(server, retries=10**6, deadline=0.5, patience={"failures": 10**6})
        start = time.monotonic()
        assert scored(judge, judges.swatches(1)).isnan().all()
        assert 0.3 < time.monotonic() - start < 2
    (reason,) = judge.stats.reasons
    assert reason.startswith("deadline of 0.5 s; before that, ")


def test_waits_are_drawn_below_a_bound_that_doubles_up_to_the_longest():
    with judges.FakeJudge(lambda picture, attempt: "503") as server:
        judge = judge_of(server, patience={"first": 0.1, "longest": 0.4, "failures": 10**6}, deadline=99)
        drawn = []
        judge._client._jitter.uniform = lambda low, high: drawn.append((low, high)) or 0.0
        scored(judge, judges.swatches(1))
    assert drawn == [(0, 0.1), (0, 0.2), (0, 0.4), (0, 0.4)]


def seconds(n):
    return lambda: str(n)


def date(n):
    return lambda: formatdate(time.time() + n, usegmt=True)


@pytest.mark.parametrize(
    ("header", "longest", "least", "most"),
    [
        (seconds(1), 60, 1, 3),
        (date(2), 60, 1, 4),  # dates have no fractions
        (seconds(3600), 0.3, 0.3, 2),
        (date(3600), 0.3, 0.3, 2),
        (date(-3600), 60, 0.1, 1),
        (seconds("soon"), 60, 0.1, 1),
        (seconds("-5"), 60, 0.1, 1),
        (seconds("nan"), 60, 0.1, 1),
        (seconds(""), 60, 0.1, 1),
    ],
)
def test_what_retry_after_asks_for_is_heeded_up_to_the_longest_wait(header, longest, least, most):
    value = header()
    with judges.FakeJudge(only_first((429, b"", {"Retry-After": value}))) as server:
        judge = judge_of(server, patience={"first": 0.1, "longest": longest})
        judge._client._jitter.uniform = lambda low, high: high  # on top of it
        assert scored(judge, judges.swatches(1)).isfinite().all()
        first, second = server.times
    assert least <= second - first < most


def test_a_wait_beyond_the_deadline_is_not_begun():
    with judges.FakeJudge(only_first((429, b"", {"Retry-After": "30"}))) as server:
        judge = judge_of(server, deadline=20, patience={"longest": 60})
        start = time.monotonic()
        assert scored(judge, judges.swatches(1)).isnan().all()
        assert time.monotonic() - start < 2


# concurrency


@pytest.mark.parametrize("limit", [1, 3])
def test_a_batch_goes_in_parallel_within_the_limit(limit):
    with judges.FakeJudge(seconds=0.05) as server:
        scored(judge_of(server, concurrency=limit), judges.swatches(12))
        assert server.peak == limit


def test_the_limit_holds_for_all_batches_together():
    with judges.FakeJudge(seconds=0.05) as server:
        judge = judge_of(server, concurrency=3)
        batches = [threading.Thread(target=scored, args=(judge, judges.swatches(6, first=1 + 6 * k))) for k in range(3)]
        for each in batches:
            each.start()
        for each in batches:
            each.join()
        assert server.peak == 3
    assert judge.stats.scored == 18


# circuit breaker


def test_an_outage_pauses_the_batch_and_loses_nothing():
    outage = threading.Event()
    outage.set()
    with judges.FakeJudge(lambda picture, attempt: "503" if outage.is_set() else None) as server:
        judge = judge_of(server, retries=2, patience={"failures": 4, "cool": 0.1, "longest": 0.2, "probes": 100})
        samples, values = judges.swatches(30), []
        batch = threading.Thread(target=lambda: values.append(scored(judge, samples)))
        batch.start()
        time.sleep(0.3)
        with server.lock:  # open by now: one at a time
            server.peak = 0
        time.sleep(0.6)
        asked, peak = len(server.bodies), server.peak
        outage.clear()
        batch.join(timeout=10)
    assert peak == 1
    assert asked < 4 + 8 + 20  # those that opened it, those on their way, one every .1 to .2 s
    assert torch.allclose(values[0].double(), 10 * judges.meant(samples), atol=1e-5)
    assert judge.missing == 0 and not judge._client._breaker.open


def test_an_outage_that_lasts_is_an_error_and_its_end_is_noticed():
    outage = threading.Event()
    outage.set()
    with judges.FakeJudge(lambda picture, attempt: "503" if outage.is_set() else None) as server:
        judge = judge_of(server, patience={"failures": 4, "cool": 0.02, "probes": 3})
        samples = judges.swatches(30)
        with pytest.raises(JudgeError, match=r"answered nothing for \d+ calls in a row.*\(HTTP 503\); see to it"):
            scored(judge, samples)
        assert len(server.bodies) < 4 + 8 + 4
        outage.clear()
        time.sleep(0.2)
        assert scored(judge, samples).isfinite().all()


def test_a_breaker_opens_after_failures_in_a_row_only():
    breaker = Breaker(3, 10, 100, 2, "x")
    for _ in range(5):
        breaker.failed(False, "")
        breaker.failed(False, "")
        assert not breaker.open
        breaker.worked()
    for _ in range(3):
        assert not breaker.open
        breaker.failed(False, "")
    assert breaker.open


def test_a_breaker_lets_one_go_ahead_at_growing_intervals_and_closes_when_it_works():
    now, stop = [0.0], threading.Event()
    breaker = Breaker(1, 10, 25, 4, "x", clock=lambda: now[0])

    def waits():
        stop.clear()
        threading.Timer(0.03, stop.set).start()
        with pytest.raises(Stopped):
            breaker.enter(stop)
        stop.clear()

    assert breaker.enter(stop) is False
    breaker.failed(False, "down")
    for wait in (10, 20, 25):
        now[0] += wait - 0.5
        waits()  # it is too early
        now[0] += 0.5
        assert breaker.enter(stop) is True
        waits()  # one is ahead
        breaker.failed(True, "down")
    now[0] += 25
    assert breaker.enter(stop) is True
    breaker.worked()
    assert not breaker.open and breaker.enter(stop) is False


def test_a_call_that_was_not_made_gives_its_turn_to_another():
    breaker, stop = Breaker(1, 1e-6, 1, 4, "x"), threading.Event()
    breaker.failed(False, "down")
    time.sleep(0.01)
    assert breaker.enter(stop) is True
    breaker.left(True)
    assert breaker.enter(stop) is True


def test_an_error_in_the_main_thread_ends_the_others_soon(monkeypatch):
    def interrupted(futures):
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr("evosearch.rewards.judge.as_completed", interrupted)
    with judges.FakeJudge(lambda picture, attempt: "429") as server:
        judge = judge_of(server, deadline=1000, retries=1000, patience={"first": 100, "longest": 100})
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            scored(judge, judges.swatches(20))
        assert time.monotonic() - start < 3


# money


def test_calls_tokens_and_money_are_counted():
    with judges.FakeJudge(only_first("text"), usage=(2000, 50)) as server:
        judge = judge_of(server, usd_per_million_tokens=(1.0, 4.0), usd_per_call=9)
        scored(judge, judges.swatches(3))
    stats = judge.stats
    assert (stats.calls, stats.retried, stats.prompt_tokens, stats.completion_tokens) == (6, 3, 12_000, 300)
    assert stats.usd == pytest.approx(6 * (2000 * 1 + 50 * 4) / 1e6)  # answers of no use are charged, too
    assert judge.usd_per_call == 9


@pytest.mark.parametrize("usage", [None, (True, 5), (-1, 5), ("7", 5)])
def test_without_tokens_the_price_of_a_call_counts(usage):
    with judges.FakeJudge(usage=usage) as server:
        judge = judge_of(server, usd_per_million_tokens=(1.0, 4.0), usd_per_call=0.5)
        scored(judge, judges.swatches(3))
        unpriced = judge_of(server, usd_per_million_tokens=(1.0, 4.0))
        scored(unpriced, judges.swatches(3))
        capped = judge_of(server, usd_per_million_tokens=(1.0, 4.0), usd_cap=1)
        with pytest.raises(
            JudgeError, match=r"usd_cap cannot be kept .* does not report its tokens; give usd_per_call"
        ):
            scored(capped, judges.swatches(3))
    assert judge.stats.usd == pytest.approx(1.5) and judge.stats.unpriced == 0
    assert unpriced.stats.usd == 0 and unpriced.stats.unpriced == 3


def test_refused_calls_cost_nothing_and_lost_ones_are_charged():
    with judges.FakeJudge(only_first("429")) as server:
        judge = judge_of(server, usd_per_call=0.5)
        scored(judge, judges.swatches(4))
        assert judge.stats.usd == pytest.approx(2)
    with judges.FakeJudge(only_first("reset")) as server:
        judge = judge_of(server, usd_per_call=0.5)
        scored(judge, judges.swatches(4))
        assert judge.stats.usd == pytest.approx(4)


def test_nothing_is_asked_beyond_the_cap_and_what_was_scored_stays():
    samples = judges.swatches(20)
    with judges.FakeJudge(seconds=0.01) as server:
        judge = judge_of(server, usd_per_call=0.1, usd_cap=1.0)
        with pytest.raises(JudgeError, match=r"usd_cap of 1 \$ is reached: 10 calls of the judge cost 1 \$; .* raise"):
            scored(judge, samples)
        assert len(server.bodies) == 10
        assert judge.stats.usd == pytest.approx(1)
        done = torch.tensor(sorted(judge._scores.values()))
        assert len(done) == 10
        kept = [k for k, value in enumerate(10 * judges.meant(samples)) if (done - value).abs().min() < 1e-5]
        assert scored(judge, samples[kept]).isfinite().all()
        assert len(server.bodies) == 10


def test_the_cap_is_kept_by_tokens_once_a_price_is_known():
    with judges.FakeJudge(usage=(10**6, 0)) as server:  # a dollar each
        judge = judge_of(server, usd_per_million_tokens=(1.0, 1.0), usd_cap=10.5, concurrency=4)
        with pytest.raises(JudgeError, match=r"usd_cap of 10\.5"):
            scored(judge, judges.swatches(40))
        assert len(server.bodies) == 10


# the key


def test_the_key_is_sent_and_stands_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    told = (401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}).encode(), {})
    with judges.FakeJudge() as server:
        judge = judge_of(server, key="MY_KEY")
        scored(judge, judges.swatches(1))
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        seen = [repr(judge), str(judge.stats), judge.__name__, str(vars(judge)), str(vars(judge._client))]
        server.fault = lambda picture, attempt: told
        scored(judge, judges.swatches(1, first=2))
        seen += judge.stats.reasons
        with pytest.raises(
            JudgeError, match=r"refuses calls, HTTP 401 \(Incorrect .*: \*\*\*\.\); check the key, of MY_"
        ):
            scored(judge_of(server, key="MY_KEY"), judges.swatches(1))
    assert any("HTTP 401" in text for text in seen)
    assert not any(KEY in text for text in seen)


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("EVOSEARCH_JUDGE_KEY", raising=False)
    with judges.FakeJudge() as server:
        scored(judge_of(server), judges.swatches(1))
        assert "Authorization" not in server.headers[0]
        server.fault = lambda picture, attempt: (401, b"", {})
        with pytest.raises(JudgeError, match="HTTP 401; name the variable that holds the key by key="):
            scored(judge_of(server), judges.swatches(1))


@pytest.mark.parametrize("key", ["", "  ", "sk-5 x", "sk-5\nX-Evil: 1", "sk-ü5"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ValueError, match="MY_KEY") as refused:
        judge_of("http://127.0.0.1:1", key="MY_KEY")
    assert "sk-" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "ours", "theirs", "sent"),
    [
        ("https://api.example.com/v1", "a", "b", "EVOSEARCH_JUDGE_KEY"),
        ("https://api.example.com/v1", "", "b", "OPENAI_API_KEY"),
        ("http://127.0.0.1:8000/v1", "", "b", "OPENAI_API_KEY"),
        ("http://gpu.example.com/v1", "", "b", None),
        ("http://gpu.example.com/v1", "a", "b", "EVOSEARCH_JUDGE_KEY"),
        ("https://api.example.com/v1", "", "", None),
    ],
)
def test_which_key_goes_where(monkeypatch, url, ours, theirs, sent):
    for name, value in (("EVOSEARCH_JUDGE_KEY", ours), ("OPENAI_API_KEY", theirs)):
        monkeypatch.setenv(name, value)
    assert judge_of(url)._client._key == sent


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "name the variable"), (403, "may do"), (404, "check url and model")]
)
def test_an_endpoint_that_refuses_all_calls_is_an_error_at_once(status, hint):
    with judges.FakeJudge(lambda picture, attempt: (status, b"<b>no\x1b[2J</b>", {})) as server:
        with pytest.raises(JudgeError, match=rf"HTTP {status} \(<b>no \[2J</b>\); .*{hint}"):
            scored(judge_of(server, concurrency=1), judges.swatches(9))
        assert len(server.bodies) == 1


# arguments


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.example.com/v1", "^url must be the http or https address"),
        ("ftp://example.com", "^url must be the http or https address"),
        ("http://", "^url must be the http or https address"),
        ("http://example.com:99999/v1", "^url must be the http or https address"),
        ("http://example.com/a\x7f", "^url must be the http or https address"),
        ("http://example.com/a\r\nX:1", "^url must be the http or https address"),
        ("http://example.com/a b", "^url must be the http or https address"),
        ("https://me:secret@example.com", "without user and password; name the variable"),
    ],
)
def test_wrong_addresses_are_refused(url, message):
    with pytest.raises(ValueError, match=message) as refused:
        endpoint(url)
    assert "secret" not in str(refused.value)


def test_the_query_of_an_address_is_sent_and_not_shown():
    with judges.FakeJudge() as server:
        judge = judge_of(f"{server.url}/chat/completions?api-version=3&key=secret")
        assert scored(judge, judges.swatches(1)).isfinite().all()
    assert server.paths == ["/v1/chat/completions?api-version=3&key=secret"]
    assert "secret" not in repr(judge)
    assert endpoint("https://e.com/v1/chat/completions/?a=b").geturl() == "https://e.com/v1/chat/completions?a=b"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timeout": 0}, "timeout must be a number above 0"),
        ({"deadline": -1}, "deadline must be a number above 0"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"patience": {"failures": 0}}, "patience: failures must be at least 1"),
        ({"patience": {"cool": 0}}, "patience: cool must be a number above 0"),
        ({"usd_cap": 1}, "usd_cap needs a price"),
        ({"usd_cap": 0, "usd_per_call": 1}, "usd_cap must be a number above 0"),
        ({"usd_per_call": -1}, "usd_per_call must be a number of at least 0"),
        ({"usd_per_million_tokens": 3}, "usd_per_million_tokens must be two prices"),
        ({"usd_per_million_tokens": (1, 2, 3)}, "usd_per_million_tokens must be two prices"),
        ({"usd_per_million_tokens": (1, "2")}, "usd_per_million_tokens must be a number"),
        ({"key": "NO_SUCH_KEY"}, "key must name an environment variable .* NO_SUCH_KEY is not set"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        judge_of("http://127.0.0.1:1", **wrong)


def test_the_price_of_a_call_counts_in_a_weighted_sum():
    judge = judge_of("http://127.0.0.1:1", usd_per_call=0.25)
    assert rewards.resolve({"jpeg": 1}).usd_per_call == 0
    assert rewards.weighted({judge: 2.0, "jpeg": 1.0}).usd_per_call == 0.25


# as many at once as the endpoint bears


def test_requests_settle_near_what_the_endpoint_bears():
    """It refuses the fifth at once; how many are sent goes up and down around that, where it began with sixteen."""
    open_then = []
    with judges.FakeJudge(seconds=0.05) as server:
        server.fault = lambda picture, attempt: "429" if server.now > 4 else None
        judge = judge_of(server, concurrency=16, retries=50, deadline=60)
        for first in range(1, 129, 16):
            assert scored(judge, judges.swatches(16, first)).isfinite().all()
            open_then.append(judge._client.lanes.open)
    assert all(1 <= lanes <= 8 for lanes in open_then[1:])
    assert sum(open_then[1:]) / len(open_then[1:]) >= 2
    assert 0 < judge.stats.failures["HTTP 429"] < 0.4 * judge.stats.calls


def test_lanes_halve_once_for_a_crowd_and_grow_by_one_a_round():
    lanes = Lanes(16)
    with lanes.lane() as one, lanes.lane() as two:
        for lane in (one, two):
            lanes.refused(lane)
    assert lanes.open == 8
    for count, now in ((8, 8), (1, 9), (10, 10), (1000, 16)):
        for _ in range(count):
            lanes.answered()
        assert lanes.open == now
    for _ in range(10):
        with lanes.lane() as lane:
            lanes.refused(lane)
    assert lanes.open == 1


def test_no_more_set_out_than_there_are_lanes():
    lanes, now, peak = Lanes(3), 0, 0
    lock = threading.Lock()

    def go(_):
        nonlocal now, peak
        with lanes.lane():
            with lock:
                now += 1
                peak = max(peak, now)
            time.sleep(0.002)
            with lock:
                now -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(go, range(24)))
    assert peak == 3
