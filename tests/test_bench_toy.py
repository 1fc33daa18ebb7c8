"""The plane: distances, fine-tuning, clouds and claims."""

import math
from pathlib import Path

import pytest
import torch

from evosearch import searches
from evosearch.bench import claims, finetuning, toy
from evosearch.bench.cells import read
from evosearch.bench.distances import mmd, sliced_wasserstein
from evosearch.bench.statistics import small_mean
from evosearch.bench.toy_figure import figure

MODES = {reward: toy.MIXTURE.tilted(toy.REWARDS[reward], toy.TEMPERATURE).modes() for reward in toy.REWARDS}


def test_mmd_is_without_bias_and_grows_with_distance():
    torch.manual_seed(0)
    same = [mmd(torch.randn(50, 2), torch.randn(50, 2)) for _ in range(200)]
    _, low, high = small_mean(same)
    assert low < 0 < high
    far = [mmd(torch.randn(50, 2), torch.randn(50, 2) + shift) for shift in (0.5, 1.0, 2.0)]
    assert 0.01 < far[0] < far[1] < far[2]


def test_mmd_is_that_of_gaussians():
    """Under a kernel of width 1, E k(x, y) for x - y ~ N(m, 2 I) in the plane is exp(-|m|² / 6) / 3."""
    torch.manual_seed(0)
    x, y = torch.randn(4000, 2), torch.randn(4000, 2) + torch.tensor([1.5, 0.0])
    assert mmd(x, y) == pytest.approx(2 / 3 * (1 - math.exp(-(1.5**2) / 6)), abs=0.01)


def test_sliced_wasserstein_of_a_shift_is_its_mean_length_along_a_line():
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(x, x) == 0
    assert sliced_wasserstein(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5 * 2 / math.pi, rel=0.01)


def test_small_mean_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        _, low, high = small_mean(torch.randn(5, generator=generator, dtype=torch.float64).tolist())
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert small_mean([2.0]) == (2.0, 2.0, 2.0)


def test_modes_are_where_the_target_is_highest():
    angles = torch.atan2(MODES["circle"][:, 1], MODES["circle"][:, 0]).sort().values
    assert len(MODES["circle"]) == 6
    assert torch.allclose(angles.diff(), torch.full((5,), math.pi / 3, dtype=torch.float64), atol=0.15)
    assert len(MODES["peaks"]) == 4
    assert torch.cdist(MODES["peaks"], toy.Peaks.at.double()).min(1).values.max() < 0.75


def test_found_counts_modes_not_points():
    modes = MODES["peaks"]
    assert toy.found(modes[[0, 0, 1]].float(), modes) == 2
    assert toy.found(modes[:1] + 1.0, modes) == 0


def test_the_learnt_model_draws_what_the_mixture_does():
    path, generator = toy.MIXTURE.sampler(toy.STEPS).path, torch.Generator().manual_seed(0)
    model = finetuning.pretrained(toy.MIXTURE)
    with torch.no_grad():
        drawn = finetuning.trajectory(model, path, 2000, generator)[-1]
    assert sliced_wasserstein(drawn, toy.MIXTURE.sample(2000, generator)) < 0.25


@pytest.mark.parametrize("method", finetuning.METHODS)
def test_fine_tuning_goes_past_the_target(method):
    """The reward rises on and on; the distance to the target falls, then grows."""
    found = toy.cloud(toy.Cell(method, "circle", 0))[1]
    rewards, distances = (torch.tensor([row[k] for row in found["course"]]) for k in (1, 2))
    target = toy.MIXTURE.tilted(toy.REWARDS["circle"], toy.TEMPERATURE).mean(toy.REWARDS["circle"])
    assert rewards[0] < target < rewards[-1]
    assert distances.min() < 0.6 * distances[0]
    assert distances[-1] > 1.5 * distances.min()


def test_clouds_resume_and_make_a_table_and_a_figure(tmp_path):
    todo = [toy.Cell(name, "circle", seed) for seed in (0, 1) for name in (toy.PLAIN, toy.TARGET, "best_of_n")]
    assert set(toy.run(todo[:4], tmp_path, workers=1)) == set(todo[:4])
    assert set(toy.run(todo, tmp_path, workers=1)) == set(todo[4:])
    rows = read(tmp_path)
    lines = {line.split(" | ")[0]: line.split(" | ")[1:] for line in toy.table(rows, "circle").splitlines()}
    plain, best, target = (
        float(lines[f"| {name}"][0].split(" ± ")[0]) for name in ("plain samples", "best_of_n", "target")
    )
    assert plain < best < target
    assert lines["| target"][3].startswith("0.")
    titles = [axes.get_title() for part in figure(rows, "circle").subfigs for axes in part.axes]
    assert [title.split("\n")[0] for title in titles[:3]] == [toy.PLAIN, toy.TARGET, "best_of_n"]


def test_searches_of_the_plane_stay_within_their_nfe():
    for name, knobs in toy.METHODS.values():
        spent = 0

        def counted(x, alpha, sigma):
            nonlocal spent
            spent += len(x)
            return toy.MIXTURE.denoise(x, alpha, sigma)

        sampler = toy.MIXTURE.sampler(toy.STEPS, batch_size=1)
        sampler._denoiser = counted
        toy.solve(name, sampler, toy.REWARDS["peaks"], 0, **toy.fitted(name, **knobs))
        assert 0.75 * toy.NFE < spent <= toy.NFE, name


def test_claims_are_of_searches_and_differ():
    assert {claim.search for claim in claims.CLAIMS} <= set(searches.__all__)
    assert len({(claim.search, claim.says) for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_a_claim_is_seen_where_its_interval_is_above_0():
    cell = claims.all_cells()[0]
    for gains, seen in (([1.0, 1.1, 0.9], "yes"), ([-1.0, -1.1, -0.9], "no, the contrary"), ([-1.0, 1.0], "undecided")):
        row = {"search": cell.search, "says": cell.says, "world": cell.world, "gains": gains}
        assert claims.table([row]).endswith(f"| {seen} |")


@pytest.mark.parametrize("search", ["spectral", "particles", "backtrack"])
def test_a_claim_is_measured_again_as_it_stands_in_the_evidence(search):
    rows = read(Path(__file__).parents[1] / "docs/evidence/claims")
    (claim,) = (claim for claim in claims.CLAIMS if claim.search == search)
    (row,) = (row for row in rows if (row["says"], row["world"]) == (claim.says, claim.worlds[0]))
    assert [claim.gain(claim.worlds[0], seed) for seed in (0, 1)] == pytest.approx(row["gains"][:2], abs=1e-3)
