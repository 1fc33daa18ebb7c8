"""The benchmark of drafts: exact where the model is linear, and silent on what a network cannot do."""

import pytest
import torch
from vectors import gaussian, sampler

from evosearch.bench import drafts as recipe


def _row(finished, drafted, share=0.25, nfe=5.0):
    draft = {"share": share, "cache": None, "nfe": nfe, "seconds": 0.5, "rewards": {"shapes": drafted}}
    return {"steps": 20, "finished": {"shapes": finished}, "seconds": 2.0, "drafts": [draft]}


def test_drafts_of_a_linear_model_foretell_it_wholly_and_cost_their_steps(monkeypatch):
    """All that a linear denoiser of one variance does to a noise is to scale it."""
    monkeypatch.setattr(recipe, "NOISES", 6)
    rewards = {"shapes": lambda samples, prompts: torch.exp(samples[:, 0])}
    s = sampler(20, gaussian(1.0))
    s.decode = lambda p: p.x  # not into [0, 1]
    found = recipe.drafts_of(s, rewards, "any")
    assert [d["nfe"] for d in found["drafts"]] == [round(kind.share * 20) for kind in recipe.KINDS if not kind.cache]
    assert all(d["cache"] is None for d in found["drafts"])
    order = torch.tensor(found["finished"]["shapes"]).argsort().tolist()
    for draft in found["drafts"]:
        assert torch.tensor(draft["rewards"]["shapes"]).argsort().tolist() == order


def test_the_table_says_what_is_foretold_and_what_is_lost():
    samples = [1.0, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1]
    turned = [0.0, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1]
    shown = recipe.table([_row(samples, turned), _row([x + 5 for x in samples], turned)], "shapes")
    (line,) = [line for line in shown.splitlines() if line.startswith("| 5 steps")]
    *_, nfe, seconds, correlation, kept, _ = (cell.strip() for cell in line.split("|"))
    assert (nfe, seconds) == ("5.0", "25%")
    expected = torch.corrcoef(torch.tensor([samples, turned]))[0, 1]
    assert float(correlation.split()[0]) == pytest.approx(float(expected), abs=0.006)
    assert float(kept) == pytest.approx(-0.1)  # the best one's draft is the worst: the second best is left


def test_a_bill_counts_samples_and_drafts():
    shares = sum(kind.share for kind in recipe.KINDS)
    assert recipe.bill([recipe.Cell("a"), recipe.Cell("b")]) == round(2 * recipe.NOISES * 20 * (1 + shares))
