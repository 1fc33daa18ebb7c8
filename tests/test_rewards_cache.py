"""Scores that are known are not asked for again: in a run, across runs, by others, and after a kill."""

import json
import sqlite3
import subprocess
import sys
import time

import judges
import pytest
import tiny_rewards
import torch
import toy
from test_rewards_judge import judge_of

from evosearch import cli, report, rewards
from evosearch.budget import Budget
from evosearch.digests import digest
from evosearch.rewards import cache, cache_file
from evosearch.rewards.cache import ScoreCache, identity, leaves
from evosearch.rewards.cache_file import CacheFile, Key
from evosearch.rewards.judge import JudgeError


def counted(scores=toy.bright, **attributes):
    """A reward that notes what it is asked about."""

    def reward(samples, prompts):
        reward.asked.append(([round(x, 4) for x in toy.bright(samples.detach(), prompts).tolist()], list(prompts)))
        return scores(samples, prompts)

    reward.asked = []
    for name, value in attributes.items():
        setattr(reward, name, value)
    return reward


def grey(*levels):
    """Pictures of these lightnesses, in 8 bits."""
    return (torch.tensor(levels).float() / 255)[:, None, None, None].expand(-1, 3, 8, 8).clone()


def scored(cache, reward, samples, prompts):
    with cache.used():
        return rewards.scores(reward, samples, prompts)


# Which are asked about


def test_what_is_new_is_scored_in_one_batch_in_order_and_once():
    cache, reward = ScoreCache(), counted()
    assert torch.allclose(scored(cache, reward, grey(51, 102), ["a", "a"]), torch.tensor([51, 102]) / 255)
    values = scored(cache, reward, grey(204, 102, 153, 204, 51), ["a"] * 5)
    assert torch.allclose(values, torch.tensor([204, 102, 153, 204, 51]) / 255)
    assert reward.asked == [([0.2, 0.4], ["a", "a"]), ([0.8, 0.6], ["a", "a"])]


def test_another_prompt_reward_or_shape_is_not_the_same():
    cache, reward, other = ScoreCache(), counted(), counted(lambda s, p: 1 - toy.bright(s, p))
    for who, samples, prompts in (
        (reward, grey(51, 51), ["a", "b"]),
        (other, grey(51, 51), ["a", "b"]),
        (reward, grey(51).reshape(1, 3, 4, 16), ["a"]),  # the same bytes
        (reward, grey(51)[:, None], ["a"]),
    ):
        assert torch.equal(scored(cache, who, samples, prompts), rewards.scores(who, samples, prompts))
    assert [len(asked[0]) for asked in reward.asked] == [2, 2, 1, 1, 1, 1]


def test_what_8_bits_do_not_hold_is_told_apart():
    cache, reward = ScoreCache(), counted()
    finer = grey(51) + 1e-4
    assert scored(cache, reward, grey(51), ["a"]) != scored(cache, reward, finer, ["a"])
    cache.recognise(again := grey(51), [digest((grey(51)[0] * 255).byte())])
    assert scored(cache, reward, again, ["a"]) == pytest.approx(0.2)
    assert len(reward.asked) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_missing_score_is_asked_for_again(tmp_path, bad):
    cache = ScoreCache(tmp_path)
    reward = counted(lambda s, p: torch.where(toy.bright(s, p) > 0.5, bad, toy.bright(s, p)), cache_key="mine")
    for _ in range(2):
        assert not scored(cache, reward, grey(51, 204), ["a", "a"])[1].isfinite()
    assert [asked[0] for asked in reward.asked] == [[0.2, 0.8], [0.8]]


def test_gradients_are_computed():
    cache, reward = ScoreCache(), counted()
    samples = grey(51).requires_grad_()
    for _ in range(2):
        assert scored(cache, reward, samples, ["a"]).requires_grad
    assert len(reward.asked) == 2


def test_what_declares_no_scores_of_its_own_is_asked_each_time():
    cache, reward = ScoreCache(), counted(cache_key=None)
    for _ in range(2):
        scored(cache, reward, grey(51), ["a"])
    assert len(reward.asked) == 2


def test_other_weights_ask_for_nothing():
    cache, one, two = ScoreCache(), counted(), counted(lambda s, p: 1 - toy.bright(s, p))
    samples = grey(51, 102)
    for weights in ((1, 1), (3, -2)):
        combined = rewards.resolve(dict(zip((one, two), weights, strict=True)))
        want = weights[0] * samples.flatten(1).mean(1) + weights[1] * (1 - samples.flatten(1).mean(1))
        assert torch.allclose(scored(cache, combined, samples, ["a", "a"]), want, atol=1e-6)
    assert len(one.asked) == len(two.asked) == 1


@pytest.mark.parametrize("key", ["mine", None])
def test_a_function_of_a_picture_says_the_same_of_itself(key):
    def own(image):
        return 0.5

    own.cache_key, own.usd_per_call, own.allow_missing, own.remote = key, 0.5, 0.1, True
    made = rewards.resolve(own)
    assert (made.cache_key, made.usd_per_call, made.allow_missing, made.remote) == (key, 0.5, 0.1, True)
    assert not hasattr(rewards.resolve(lambda image: 0.5), "cache_key")


def test_a_combination_says_itself_what_its_parts_come_to():
    class Ranked:
        """Says something else each time."""

        def __init__(self):
            self.parts, self.calls = [counted()], 0

        def __call__(self, samples, prompts):
            self.calls += 1
            return rewards.scores(self.parts[0], samples, prompts) + self.calls

    cache, ranked = ScoreCache(), Ranked()
    assert [float(scored(cache, ranked, grey(51), ["a"])) for _ in range(2)] == pytest.approx([1.2, 2.2])
    assert len(ranked.parts[0].asked) == 1


def test_a_method_called_parts_makes_no_combination():
    reward = counted(parts=lambda samples: samples.unbind())
    assert leaves(reward) == [reward]
    toy.found(reward=reward, algorithm="best_of_n")


# On disk


def test_across_runs_a_declared_reward_is_asked_once_and_a_plain_function_anew(tmp_path):
    asked = []
    for _ in range(2):
        declared, plain = counted(cache_key="mine, version 1"), counted()
        cache = ScoreCache(tmp_path)
        for reward in (declared, plain):
            assert torch.allclose(scored(cache, reward, grey(51, 102), ["a", "b"]), torch.tensor([51, 102]) / 255)
        cache.close()
        asked.append((len(declared.asked), len(plain.asked)))
    assert asked == [(1, 1), (0, 1)]


def test_prompts_stay_out_of_the_file_and_may_be_any_text(tmp_path):
    cache, reward = ScoreCache(tmp_path), counted(cache_key="mine")
    scored(cache, reward, grey(51).expand(len(toy.HOSTILE), -1, -1, -1), toy.HOSTILE)
    cache.close()
    again = ScoreCache(tmp_path)
    scored(again, reward, grey(51).expand(len(toy.HOSTILE), -1, -1, -1), toy.HOSTILE)
    assert len(reward.asked) == 1
    assert b"alert" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


WRITER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("cache_file", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["cache_file"] = module
spec.loader.exec_module(module)
file = module.CacheFile(Path(sys.argv[2]))
for batch in range(int(sys.argv[4])):
    file.write({module.Key(sys.argv[3], "a", bytes([k]) + batch.to_bytes(4, "big")): batch / 2 for k in range(50)})
    print(batch, flush=True)
"""


def writer(folder, name, batches):
    command = [sys.executable, "-c", WRITER, cache_file.__file__, str(folder), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read(folder, name, batches):
    """How many of each batch's 50 scores are there."""
    file = CacheFile(folder)
    found = [
        len(file.read(Key(name, "a", bytes([k]) + batch.to_bytes(4, "big")) for k in range(50)))
        for batch in range(batches)
    ]
    file.close()
    return found


@pytest.mark.parametrize("torn", [0, 1000])
def test_a_kill_loses_nothing_that_was_written_and_leaves_no_half(tmp_path, torn):
    process = writer(tmp_path, "killed", 10**6)
    for line in process.stdout:
        if int(line) == 40:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    log = tmp_path / "scores.db-wal"
    if torn:  # by a power cut
        log.write_bytes(log.read_bytes()[:-torn])
    found = read(tmp_path, "killed", 45)
    assert found[: 30 if torn else 41] == [50] * (30 if torn else 41)
    assert {*found} <= {0, 50}
    with sqlite3.connect(tmp_path / "scores.db") as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    opened.close()


def test_two_at_once_keep_all(tmp_path):
    both = [writer(tmp_path, name, 60) for name in ("one", "two")]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    for name in ("one", "two"):
        assert read(tmp_path, name, 60) == [50] * 60


def test_others_see_what_is_written_meanwhile(tmp_path):
    here, there = ScoreCache(tmp_path), ScoreCache(tmp_path)
    one, two = (counted(cache_key="mine") for _ in range(2))
    scored(there, two, grey(153), ["a"])  # it has looked before
    scored(here, one, grey(51), ["a"])
    assert scored(there, two, grey(51), ["a"]) == pytest.approx(0.2)
    assert len(two.asked) == 1


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scores.db").write_text("something else" * 100)
    newer = tmp_path / "newer" / "scores.db"
    CacheFile(newer.parent).close()
    with sqlite3.connect(newer) as opened:
        opened.execute("PRAGMA user_version = 7")
    opened.close()
    for name, reason in (("file/x", "Not a directory"), ("other", "not a database"), ("newer", "its format is 7")):
        with pytest.raises(ValueError, match=rf"^score cache .*scores.db cannot be opened \(.*{reason}.*\); name anot"):
            toy.found(score_cache=tmp_path / name)


def test_a_file_that_fails_on_the_way_ends_no_search(tmp_path):
    reward, cache = counted(cache_key="mine"), ScoreCache(tmp_path)
    scored(cache, reward, grey(51), ["a"])
    with sqlite3.connect(tmp_path / "scores.db") as opened:
        opened.execute("DROP TABLE scores")
    opened.close()
    with pytest.warns(
        UserWarning, match=r"score cache .* fails \(no such table: scores\); scores are kept in this run"
    ):
        assert scored(cache, reward, grey(102), ["a"]) == pytest.approx(0.4)
    assert torch.allclose(scored(cache, reward, grey(51, 102), ["a", "a"]), torch.tensor([0.2, 0.4]))
    assert len(reward.asked) == 2


# Who is who


@pytest.mark.parametrize("name", tiny_rewards.MADE)
def test_a_reward_is_known_by_its_weights_wherever_they_lie(name, tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    made, again = (tiny_rewards.MADE[name](folder) for folder in folders)
    assert made.cache_key == again.cache_key
    assert made.cache_key.startswith(f"{name} ")
    assert tiny_rewards.MADE[name](folders[0], dtype=torch.bfloat16).cache_key != made.cache_key
    loaded = again.weights()
    first = loaded[0] if isinstance(loaded, tuple) else loaded
    with torch.no_grad():
        next(iter(getattr(first, "model", first).parameters())).flatten()[0] += 1e-3
    assert made.cache_key != again.cache_key
    assert made.device == torch.device("cpu")


def test_settings_and_configs_count():
    assert identity("a", x=1) == identity("a", x=1)
    model = torch.nn.Linear(2, 2)
    names = {identity("a"), identity("b"), identity("a", x=1), identity("a", x=2), identity("a", model)}
    assert len(names) == 5
    assert identity("a", version=1) != identity("a")


def test_weights_are_read_once_for_each_model_and_again_when_they_change(monkeypatch):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    read = []
    monkeypatch.setattr(cache, "digest", lambda tensor: read.append(tensor.shape) or digest(tensor))
    first = identity("a", model)
    assert identity("a", model) == first and identity("b", model) != first and len(read) == 2
    assert identity("a", model, other) != first and len(read) == 4
    with torch.no_grad():
        model.bias[0] += 1
    changed = identity("a", model)
    assert changed != first and len(read) == 6
    model.load_state_dict(other.state_dict())
    assert identity("a", model) == identity("a", other) != changed


def test_weights_that_do_not_say_that_they_changed_are_read_each_time():
    with torch.inference_mode():
        model = torch.nn.Linear(3, 2)
        first = identity("a", model)
        model.bias[0] += 1
        assert identity("a", model) != first


def test_rules_and_the_small_clip_are_known_too():
    names = ["shapes", "shapes_clip", "shapes_quality", "jpeg"]
    keys = [rewards.load(name).cache_key for name in names]
    assert keys == [rewards.load(name).cache_key for name in names]
    assert [key.split()[0] for key in keys] == names


def test_a_judge_is_what_it_is_asked_not_where():
    same = judge_of("http://127.0.0.1:1/v1"), judge_of("http://127.0.0.1:2/v1", concurrency=2, retries=1)
    assert same[0].cache_key == same[1].cache_key
    others = [
        judge_of(),
        judge_of(mode="yes_no"),
        judge_of(rubric="Is it red?"),
        judge_of(scale=(0, 5)),
        judge_of(extra={"seed": 1}),
        judge_of(frames=2),
        judge_of(picture="jpeg"),
        judge_of(schema=False),
    ]
    assert len({judge.cache_key for judge in others}) == len(others)


# In a search


def again_and_again(sampler, reward, rng, *, rounds: int = 3):
    """One population, scored over and over."""
    p, _ = sampler.run(sampler.prior(4), sampler.steps)
    for _ in range(rounds):
        yield p.moved(p.x, reward=reward(sampler.decode(p)))


def test_in_a_run_a_sample_is_scored_once_and_a_hit_costs_nothing():
    reward = counted(usd_per_call=0.5)
    result = toy.found(reward=reward, algorithm=again_and_again, budget=Budget(reward_calls=4, usd=2.0))
    assert len(reward.asked) == 1
    assert (result.cost.reward_calls, result.cost.hits, result.cost.scored) == (4, 8, 12)
    assert result.cost.usd == pytest.approx(2.0)
    assert 0 < result.cost.reward_seconds <= result.cost.seconds


def test_of_a_combination_only_the_parts_that_are_asked_are_paid(tmp_path):
    dear = counted(usd_per_call=0.5, cache_key="dear")
    first = toy.found(reward=dear, algorithm="best_of_n", score_cache=tmp_path)
    both = {counted(usd_per_call=0.5, cache_key="dear"): 1, counted(usd_per_call=0.001): 1}
    second = toy.found(reward=both, algorithm="best_of_n", score_cache=tmp_path)
    assert first.cost.usd == pytest.approx(0.5 * 20)
    assert second.cost.usd == pytest.approx(0.001 * 20)
    assert (second.cost.reward_calls, second.cost.hits) == (20, 0)


def test_a_judges_second_run_is_free_and_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_SCORE_CACHE", str(tmp_path))
    results = []
    for _ in range(2):
        with judges.FakeJudge() as server:
            judge, held = (judge_of(server.url, usd_per_call=0.5, rubric=text) for text in ("Is it?", "Is it fine?"))
            results.append(toy.found(reward=judge, held_out=held, algorithm="best_of_n"))
            results[-1].settings["calls"] = len(server.bodies)
    first, second = results
    assert (first.cost.reward_calls, first.cost.hits) == (20, 0)
    judged = {scored.id for scored in first.kept} | {id for stage in first.stages for id in stage.ids}
    assert first.cost.held_out_calls == len(judged) and second.cost.held_out_calls == 0
    assert first.settings["calls"] == 20 + len(judged)
    assert first.cost.usd == pytest.approx(0.5 * first.settings["calls"])
    assert (second.cost.reward_calls, second.cost.hits, second.cost.usd) == (0, 20, 0)
    assert second.settings["calls"] == 0
    for a, b in zip(first.kept, second.kept, strict=True):
        assert (a.id, a.reward, a.held_out) == (b.id, b.reward, b.held_out)


def test_answers_before_a_judge_gave_up_are_kept(tmp_path):
    samples = judges.swatches(6)
    with judges.FakeJudge() as server:
        poor = judge_of(server.url, usd_per_call=1, usd_cap=4, concurrency=1)
        with pytest.raises(JudgeError, match="usd_cap"):
            scored(ScoreCache(tmp_path), poor, samples, ["a dog"] * 6)
        assert len(server.bodies) == 4
        values = scored(ScoreCache(tmp_path), judge_of(server.url), samples, ["a dog"] * 6)
        assert len(server.bodies) == 6
    assert torch.allclose(values.double(), 10 * judges.meant(samples), atol=1e-5)


def test_report_and_command_line_tell_of_hits(tmp_path, capsys):
    toy.found(reward=counted(cache_key="mine"), score_cache=tmp_path, algorithm="best_of_n")
    result = toy.found(reward=counted(cache_key="mine"), score_cache=tmp_path, algorithm="best_of_n")
    assert "<tr><th>scores known before</th><td>20</td></tr>" in report.render(result)
    cli._show("", result, tmp_path / "best.png", tmp_path)
    assert "score cache   20 of 20 samples were scored before" in capsys.readouterr().out
    assert json.loads(json.dumps(result.cost.__dict__))["hits"] == 20
    assert "known before" not in report.render(toy.found())


def test_a_digest_takes_a_blink():
    """2 ms for 1024 x 1024 on the machine that this was written on, and less than decoding takes by far."""
    picture, times = torch.randint(0, 256, (3, 1024, 1024), dtype=torch.uint8), []
    for _ in range(5):
        start = time.thread_time()
        digest(picture)
        times.append(time.thread_time() - start)
    assert min(times) < 0.02
