"""The benchmarks' arithmetic, and one small run of each recipe."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import evosearch as es
from evosearch.bench import compare, device, saturation
from evosearch.bench.cells import fingerprint, missing, read
from evosearch.bench.overhead import overhead
from evosearch.bench.prompts import held_out_prompts
from evosearch.bench.statistics import clustered_mean
from evosearch.models import BUNDLED
from evosearch.shapes import held_out, parse


def test_prompts_are_held_out_different_and_as_hard_as_asked():
    prompts = held_out_prompts(30)
    scenes = [parse(prompt) for prompt in prompts]
    assert len(set(prompts)) == 30
    assert all(held_out(scene) for scene in scenes)
    assert [scene.objects for scene in scenes] == [3, 4] * 15


@pytest.mark.parametrize("prompts", [6, 30])
def test_interval_covers_the_mean_of_clusters_as_often_as_it_says(prompts):
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        groups = {str(k): (rng.normal() + 0.3 * rng.normal(size=3)).tolist() for k in range(prompts)}
        _, low, high = clustered_mean(groups, resamples=500, seed=trial)
        covered += low <= 0 <= high
    assert 0.91 <= covered / 400 <= 0.97  # plain percentiles: .86 of 6


def test_every_method_runs_at_every_budget_with_as_many_seeds():
    cells = compare.all_cells(["a red circle"], {500: 3, 2000: 3, 8000: 1})
    for method in compare.METHODS:
        runs = [(cell.budget, cell.seed) for cell in cells if cell.method == method]
        assert runs == [(500, 0), (500, 1), (500, 2), (2000, 0), (2000, 1), (2000, 2), (8000, 0)]


def _row(method, prompt, budget, curve, seed=0):
    return {"method": method, "prompt": prompt, "seed": seed, "budget": budget, "curve": curve, "exact": True}


def test_table_pairs_runs_of_one_budget_in_whatever_order_they_come():
    evo = "EvoSearch, ODE"
    rows = [
        _row(compare.BASELINE, "p", 2000, [(20, 0.1, 0.4), (400, 1.0, 0.45), (1500, 3.0, 0.8)]),
        _row(compare.BASELINE, "p", 500, [(20, 0.1, 0.4), (500, 1.0, 0.5)]),
        _row(evo, "p", 500, [(500, 1.0, 0.7)]),
        _row(evo, "p", 2000, [(500, 1.0, 0.7), (2000, 3.0, 0.75)]),
    ]
    table = compare.table(rows)
    assert compare.table(rows[::-1]) == table
    assert "| 500 | best-of-N | 1 | 0.5000 |" in table
    assert "+0.2000" in table
    assert "-0.0500" in table


def test_table_by_the_rules_that_did_not_guide():
    rows = [_row(compare.BASELINE, "p", 500, [(500, 1.0, 0.9)]) | {"rules": 0.25, "plain": 0.5, "plain_rules": 0.85}]
    assert "| 500 | best-of-N | 1 | 0.2500 |" in compare.table(rows, judged=True)
    assert "| 500 | one plain sample | 1 | 0.8500 | 1 | +0.6000 (too few prompts) | 1 / 0 / 0 |" in compare.table(
        rows, judged=True
    )
    assert "| 500 | one plain sample | 1 | 0.5000 | 1 | -0.4000 (too few prompts) | 0 / 0 / 1 |" in compare.table(rows)


def test_plain_samples_are_those_of_best_of_n_in_whatever_order_rows_come():
    """The methods that search by the SDE have others."""
    rows = [
        _row(method, "p", 500, [(500, 1.0, 0.9)]) | {"plain": value, "plain_rules": value}
        for method, value in ((compare.BASELINE, 0.25), ("EvoSearch, as in the paper", 0.75))
    ]
    assert compare.table(rows) == compare.table(rows[::-1])
    assert "| one plain sample | 1 | 0.2500 | 0 |" in compare.table(rows)


def test_intervals_are_those_of_pairs():
    rows = [
        _row(method, f"prompt {k}", 500, [(500, 1.0, 0.5 + 0.01 * k + gain)])
        for k in range(6)
        for method, gain in ((compare.BASELINE, 0.0), ("EvoSearch, ODE", 0.125))
    ]
    assert "+0.1250 (+0.1250 to +0.1250) | 6 / 0 / 0 |" in compare.table(rows)


def test_a_table_compares_with_the_method_that_is_named():
    evo, sde = "EvoSearch, as in the paper", "best-of-N, SDE"
    rows = [
        _row(name, "p", 500, [(500, 1.0, best)]) for name, best in ((compare.BASELINE, 0.5), (sde, 0.7), (evo, 0.8))
    ]
    head, _, plain, of_sde, of_evo = compare.table(rows, against=sde).splitlines()
    assert f"against {sde} (95 % interval)" in head
    assert "-0.2000" in plain and "+0.1000" in of_evo and of_sde.endswith("|  |  |")


def test_cells_resume_and_a_torn_line_is_run_again(tmp_path):
    todo = [
        compare.Cell(compare.BASELINE, "a red circle", 0, 100),
        compare.Cell("EvoSearch, ODE", "a red circle", 0, 100),
    ]
    assert list(compare.run(todo, tmp_path)) == todo
    path = next(tmp_path.glob("cells-*.jsonl"))
    lines = path.read_text().splitlines()
    assert json.loads(lines[1])["nfe"] <= 100
    assert json.loads(lines[1])["rules"] == json.loads(lines[1])["curve"][-1][2]
    assert "| 100 | one plain sample | 1 | 0." in compare.table(read(tmp_path))
    path.write_text(lines[0] + "\n" + lines[1][:20])
    assert list(compare.run(todo, tmp_path)) == todo[1:]
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize(
    ("fact", "other"),
    [("dtype", "bfloat16"), ("reward", "jpeg"), ("model", "mine"), ("weights", "f00")],
)
def test_runs_that_differ_are_not_mixed(tmp_path, fact, other):
    todo = [compare.Cell(compare.BASELINE, "a red circle", 0, 20)]
    list(compare.run(todo, tmp_path))
    (path,) = tmp_path.iterdir()
    row = json.loads(path.read_text())
    silent = {name: value for name, value in row.items() if name != fact}
    for changed, message in (
        (row | {fact: other}, f"{fact} must be {other}"),
        (silent, f"out must name another folder: .* do not say their {fact}"),
    ):
        path.write_text(json.dumps(changed) + "\n")
        with pytest.raises(ValueError, match=message):
            list(compare.run(todo, tmp_path))


@pytest.mark.parametrize("changed", [{"knobs": {"eta": 0.5}}, {"algorithm": "evosearch"}, {"method": "a former one"}])
def test_methods_of_other_knobs_are_not_mixed(tmp_path, changed):
    todo = [compare.Cell("best-of-N, SDE", "a red circle", 0, 20)]
    list(compare.run(todo, tmp_path))
    (path,) = tmp_path.iterdir()
    row = json.loads(path.read_text())
    assert (row["algorithm"], row["knobs"]) == compare.METHODS["best-of-N, SDE"] == ("best_of_n", {"eta": 1.0})
    path.write_text(json.dumps(row | changed) + "\n")
    with pytest.raises(ValueError, match=r" must be \(.* as in the runs in .*; or name another folder$"):
        list(compare.run(todo, tmp_path))


def test_prompts_move_where_the_model_makes_videos():
    assert all(parse(prompt).moving for prompt in compare.prompts("shapes-video"))
    assert not any(parse(prompt).moving for prompt in compare.prompts("shapes-flow"))


def test_what_no_row_tells_of_is_missing():
    todo = compare.all_cells(["a red circle"], {500: 2})
    rows = [asdict(cell) | {"reward": 1.0} for cell in todo[:2]]
    assert missing(todo, rows) == todo[2:]
    assert compare.bill(missing(todo, rows)) == 500 * len(todo[2:])


@pytest.mark.parametrize("part", [0, 1])
def test_parts_share_the_work(tmp_path, part):
    todo = [compare.Cell(compare.BASELINE, "a red circle", seed, 20) for seed in range(3)]
    assert list(compare.run(todo, tmp_path, part=(part, 2))) == todo[part::2]


@pytest.mark.parametrize("case", device.CASES, ids=lambda case: case.name)
def test_every_large_model_is_measured_at_small_size(case):
    rows = list(device.measure(case, full=False, device="cpu", batches=(1, 2)))
    assert [(row.batch, row.population) for row in rows[:2]] == [(1, 1), (2, 2)]
    assert [row.population // row.batch for row in rows[2:]] == [4, 16]
    assert not any(row.failure for row in rows)
    assert all(row.search > 0 for row in rows) and all(row.stock > 0 for row in rows[:2])
    assert device.table(rows).count("\n") == len(rows) + 1


@pytest.mark.parametrize("case", device.CASES, ids=lambda case: case.name)
def test_search_and_stock_do_the_same_work(case):
    """Every pass of the model has the batch's rows, of states and of embeddings, and as many of them."""
    pipe = device._built(case, False, "cpu", torch.float32)
    seen = []
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            (len(args[0] if args else kwargs["hidden_states"]), len(kwargs["encoder_hidden_states"]))
        ),
        with_kwargs=True,
    )
    device._stock(pipe, device._call(case, False, 3, "cpu"))
    stock, seen[:] = list(seen), []
    device._search(pipe, device._call(case, False, 3, "cpu"), 3, 6)
    assert {rows for shapes in stock for rows in shapes} == {6 if case.name == "SD 2.1" else 3}
    assert seen[1:] == 2 * stock  # the first call ends at the denoiser's door


def _starved(monkeypatch, most):
    """Let no more particles than this fit into memory."""
    real = device._search

    def search(pipe, call, batch, population):
        if batch > most:
            raise torch.OutOfMemoryError
        real(pipe, call, batch, population)

    monkeypatch.setattr(device, "_search", search)


@pytest.mark.parametrize(("most", "fitting"), [(0, []), (1, [1]), (2, [1, 2])])
def test_what_does_not_fit_is_said_and_ends_nothing_else(monkeypatch, most, fitting):
    _starved(monkeypatch, most)
    rows = list(device.measure(device.CASES[0], full=False, device="cpu", batches=(1, 2, 4)))
    assert [row.batch for row in rows if row.search and row.population == row.batch] == fitting
    assert [row.batch for row in rows if row.failure] == [{0: 1, 1: 2, 2: 4}[most]]
    larger = [(row.batch, row.population // row.batch) for row in rows if row.population > row.batch]
    assert [times for _, times in larger] == ([4, 16] if most else []) and {batch for batch, _ in larger} <= {*fitting}
    assert "does not fit" in device.table(rows) and "does not fit" in "".join(map(str, rows))


@pytest.fixture
def accelerator(monkeypatch):
    """A processor that passes for an accelerator, by a name of its own."""
    for name, answer in {"synchronize": None, "reset_peak_memory_stats": None, "empty_cache": None}.items():
        monkeypatch.setattr(torch.accelerator, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 3 * 2**30)
    for case in device.CASES:
        pipeline = type(case.build(False))
        monkeypatch.setattr(pipeline, "enable_model_cpu_offload", lambda pipe, device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: setattr(module, "compiled", True))
    return "cpu:0"


def test_an_accelerator_is_measured_compiled_and_offloaded_too(accelerator):
    rows = list(device.measure(device.CASES[1], full=False, device=accelerator, batches=(1,)))
    assert [row.setting for row in rows] == ["as it is"] * 3 + ["compiled", "offload=model"]
    assert all(row.search_memory == 3 for row in rows) and not any(row.failure for row in rows)


def test_a_model_that_does_not_fit_is_measured_offloaded_alone(accelerator, monkeypatch):
    real = device._built

    def built(case, full, where, dtype):
        if where == accelerator:
            raise torch.OutOfMemoryError
        return real(case, full, where, dtype)

    monkeypatch.setattr(device, "_built", built)
    rows = list(device.measure(device.CASES[1], full=False, device=accelerator, batches=(1,)))
    assert [(row.setting, row.failure) for row in rows] == [("as it is", "does not fit"), ("offload=model", "")]


def test_a_row_that_fails_has_its_reason(accelerator, monkeypatch):
    def broken(module):
        raise RuntimeError("no compiler found\nand more")

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    rows = list(device.measure(device.CASES[0], full=False, device=accelerator, batches=(1,)))
    assert [row.failure for row in rows] == ["", "", "", "RuntimeError: no compiler found", ""]


def test_the_bill_of_a_device_covers_what_is_run(accelerator, monkeypatch):
    spent = []
    monkeypatch.setattr(device, "_search", lambda pipe, call, batch, population: spent.append(population))
    monkeypatch.setattr(device, "_stock", lambda pipe, call: spent.append(len(call["prompt_embeds"])))
    monkeypatch.setattr(device, "_GOOD", 0.0)  # the smallest is good enough
    list(device.measure(device.CASES[0], full=False, device=accelerator, batches=(2,)))
    assert sum(spent) * device.STEPS == device.bill((2,))


BILLIONS = {"SD 2.1": 0.866, "FLUX.1-dev": 11.90, "Wan 2.1 1.3B": 1.42, "Wan 2.1 14B": 14.29, "HunyuanVideo 13B": 12.82}


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_large_models_have_their_real_sizes(name, billions):
    (case,) = (case for case in device.CASES if case.name == name)
    with torch.device("meta"):
        pipe = case.build(True)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    assert sum(p.numel() for p in denoiser.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)


# saturation


@pytest.mark.parametrize("model", BUNDLED)
def test_prompts_of_saturation_are_the_hardest(model):
    prompts = [cell.prompt for cell in saturation.all_cells(model)]
    scenes = [parse(prompt) for prompt in prompts]
    assert len(set(prompts)) == saturation.PROMPTS
    for scene in scenes:
        assert scene.objects == len(scene.groups) == 4 and held_out(scene)
        assert scene.moving == (model == "shapes-video")
        assert scene.moving or len(scene.relations) == 2


def test_best_of_many_averages_over_disjoint_sets():
    rising = {"rewards": (np.arange(1000) / 1000).tolist()}  # the best of ten in a row is the tenth
    flat = {"rewards": [1.0] * 1000}
    lines = saturation.table([row | {"own": 0.95, "decoded": 0.455} for row in (rising, flat)]).splitlines()
    assert lines[0].startswith("| best of | mean reward | exact | below the world's own (0.9500) | below the best of ")
    assert lines[2] == "| 10 | 0.7520 | 60% | 48% | 22% |"
    assert lines[4] == "| 1,000 | 0.9995 | 100% | 0% | 0% |"


@pytest.mark.parametrize(("model", "prompt"), [("shapes-flow", "a red circle"), ("shapes-video", "a red circle stays")])
def test_what_an_autoencoder_lets_through(model, prompt):
    autoencoder = es.load(model).vae
    samples = saturation.drawn([parse(prompt)] * 2, np.random.default_rng(1))
    passed = saturation.round_trip(autoencoder, samples)
    assert passed.shape == samples.shape
    assert 0 < (passed - samples).abs().mean() < 0.02
    assert 0.8 < saturation.best_decoded(prompt, autoencoder) < 1
    with torch.no_grad():
        for weight in autoencoder.decoder.parameters():
            weight.mul_(0.5)
    assert saturation.best_decoded(prompt, autoencoder) < 0.8


@pytest.mark.parametrize("model", ["shapes-flow", "shapes-video"])
def test_the_maximum_is_that_of_exact_pictures(model):
    for cell in saturation.all_cells(model)[:4]:
        assert 0.9 < saturation.maximum(cell.prompt) < 1


def test_weights_have_a_fingerprint(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(b"one")
    first = fingerprint(str(tmp_path), "shapes")
    (tmp_path / "part" / "model.safetensors").write_bytes(b"two")
    assert fingerprint(str(tmp_path), "shapes") != first
    assert (
        fingerprint("shapes-flow", "shapes_clip") != fingerprint("shapes-flow", "shapes") == fingerprint("shapes-flow")
    )


def test_pools_of_saturation_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(saturation, "SAMPLES", 10)
    todo = [saturation.Cell("a red circle"), saturation.Cell("a blue square")]
    assert list(saturation.run(todo, tmp_path, "shapes-diffusion")) == todo
    assert list(saturation.run(todo, tmp_path, "shapes-diffusion")) == []
    for row in read(tmp_path):
        assert len(row["rewards"]) == 10
        assert 0.9 < row["own"] < 1 and 0.8 < row["decoded"] < 1


@pytest.mark.parametrize("algorithm", ["best_of_n", "svdd"])
def test_overhead_is_over_as_many_nfe_and_decodes(algorithm):
    found = overhead(algorithm=algorithm, n=2, steps=3, runs=1)
    assert found.per_nfe * found.nfe * (found.steps[0] + found.decode[0]) == pytest.approx(found.search[0])
    assert found.nfe == (1 if algorithm == "best_of_n" else 5 / 6)  # 1 + 2 children in each of two steps
    assert found.decodes == (1 if algorithm == "best_of_n" else 5 / 2)
    expected = found.nfe * found.steps[0] + found.decodes * found.decode[0]
    assert found.ratio == pytest.approx(found.search[0] / expected)
    assert 0.2 < found.ratio < 20
