"""Faults: too little memory, and numbers that are not finite."""

from __future__ import annotations

import json
import math
import weakref

import pipelines
import pytest
import torch
import toy
from test_journal import Cut, counting, outcome

import evosearch as es
from evosearch.decoding import exactly
from evosearch.memory import OutOfMemory, exhausted, half, within


def lacking(sampler, fits, where):
    """The sampler, on a machine whose memory suffices for so many rows in a call of ``_denoise`` or ``_decode``."""
    own, tried = getattr(sampler, where), []

    def call(x, *args):
        made = torch.zeros(64, 64)
        rows = len(x) if where == "_decode" else len(x.x)
        tried.append((rows, weakref.ref(made)))
        if rows > fits:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {made.nbytes} bytes")
        assert all(ref() is None for _, ref in tried[:-1])  # nothing of the attempts before is alive
        return own(x, *args)

    setattr(sampler, where, call)
    return sampler, tried


def shared(sampler):
    """One that `search` does not copy, so that what was put in its place stays there."""
    sampler.rewound = lambda: sampler
    return sampler


@pytest.mark.parametrize("where", ["_denoise", "_decode"])
@pytest.mark.parametrize("fits", [8, 3, 1])
def test_micro_batches_are_halved_until_they_fit(tmp_path, where, fits):
    own, tried = lacking(shared(toy.sampler(batch_size=16)), fits, where)
    result = toy.found(pipe=own, algorithm="best_of_n", n=32, budget=None, run_dir=tmp_path / "run")
    failed = sum(rows > fits for rows, _ in tried)
    assert failed <= math.log2(16) + 1
    assert own.batch_size == 1 << (fits.bit_length() - 1)
    whole = toy.found(pipe=toy.sampler(batch_size=16), algorithm="best_of_n", n=32, budget=None)
    assert [s.id for s in result.kept] == [s.id for s in whole.kept]
    assert result.cost.nfe == whole.cost.nfe
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    if where == "_denoise":
        assert [e["batch_size"] for e in events if e["event"] == "out of memory"] == [own.batch_size]


def test_a_run_goes_on_in_the_shape_that_it_came_to(tmp_path):
    def found(folder, after=None, fits=4, **more):
        own, tried = lacking(shared(toy.sampler(batch_size=16)), fits, "_denoise")
        asked = {"algorithm": "best_of_n", "n": 64, "budget": None, "run_dir": tmp_path / folder}
        return toy.found(pipe=own, reward=counting(after), **asked, **more), tried

    whole, _ = found("whole")
    with pytest.raises(Cut):
        found("run", after=2)
    again, tried = found("run", resume=True)
    assert {rows for rows, _ in tried} == {4}
    assert outcome(again) == outcome(whole)


def test_a_reward_is_asked_about_fewer_at_a_time(tmp_path):
    asked = []

    def reward(samples, prompts):
        asked.append(len(samples))
        if len(samples) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return toy.bright(samples, prompts)

    result = toy.found(reward=reward, algorithm="best_of_n", run_dir=tmp_path / "run")
    assert asked == [4, *[2] * 10]
    assert outcome(result)[0] == outcome(toy.found(algorithm="best_of_n"))[0]
    again = toy.found(reward=reward, algorithm="best_of_n", run_dir=tmp_path / "run", resume=True)
    assert outcome(again) == outcome(result)


def lacking_for(sampler, lost, where):
    """The sampler, on a machine whose memory suffices for all particles but some, by their ids."""
    own, states = getattr(sampler, where), []
    denoise = sampler._denoise

    def noted(trajectory, until):
        nfe = denoise(trajectory, until)
        states.extend(row for id, row in zip(trajectory.particles.id.tolist(), trajectory.x, strict=True) if id in lost)
        return nfe

    def call(x, *args):
        ids = set() if where == "_decode" else set(x.particles.id.tolist())
        if ids & lost or (where == "_decode" and any(torch.equal(row, state) for row in x for state in states)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return own(x, *args)

    sampler._denoise = noted
    setattr(sampler, where, call)
    return sampler


@pytest.mark.parametrize("where", ["_denoise", "_decode"])
@pytest.mark.filterwarnings("ignore:memory does not suffice for particle")
def test_a_particle_for_which_memory_does_not_suffice_is_lost_alone(where):
    ids = toy.sampler().prior(9).id.tolist()
    own = lacking_for(shared(toy.sampler()), {ids[5], ids[6]}, where)
    result = toy.found(pipe=own, algorithm="best_of_n", n=9, budget=None)
    whole = toy.found(algorithm="best_of_n", n=9, budget=None)
    assert result.invalid == 2 and own.batch_size == 1
    rewards = {scored.id: scored.reward for scored in whole.kept}
    assert {scored.id: scored.reward for scored in result.kept} == {
        id: reward for id, reward in rewards.items() if id not in (ids[5], ids[6])
    }


def test_what_is_lost_is_told():
    ids = toy.sampler().prior(9).id.tolist()
    with pytest.warns(UserWarning, match=f"does not suffice for particle {ids[5]:016x}, which is left out"):
        toy.found(
            pipe=lacking_for(shared(toy.sampler()), {ids[5]}, "_denoise"), algorithm="best_of_n", n=9, budget=None
        )


@pytest.mark.filterwarnings("ignore:memory does not suffice for particle")
def test_where_memory_no_longer_suffices_for_any_the_search_ends():
    ids = toy.sampler().prior(40).id.tolist()
    own = lacking_for(shared(toy.sampler()), set(ids[8:]), "_denoise")
    with pytest.raises(OutOfMemory, match="for one particle at a time"):
        toy.found(pipe=own, algorithm="best_of_n", n=40, budget=None)


@pytest.mark.filterwarnings("ignore:memory does not suffice for particle")
def test_too_little_for_one_is_said(tmp_path):
    own, _ = lacking(shared(toy.sampler()), 0, "_denoise")
    with pytest.raises(OutOfMemory, match=r"does not suffice for one particle at a time .*offload="):
        toy.found(pipe=own)


def test_strict_keeps_the_shape():
    own, _ = lacking(shared(toy.sampler(batch_size=16)), 4, "_denoise")
    with pytest.raises(OutOfMemory, match="for micro-batches of 16, and strict keeps their shape"):
        toy.found(pipe=own, strict=True)


def test_the_decoder_goes_by_tiles_before_it_gives_up():
    case = pipelines.CASES["stable_diffusion"]
    pipe = case.build()
    sampler = es.PipelineSampler(pipe, "a red cat", steps=2, batch_size=2, **case.kwargs)
    finished, _ = sampler.run(sampler.prior(2), 2)
    own = sampler._decode

    def call(x):
        if not pipe.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(x)

    sampler._decode = call
    assert sampler.decode(finished).shape[0] == 2
    assert sampler.batch_size == 1 and pipe.vae.use_tiling


@pytest.mark.filterwarnings("ignore:memory does not suffice for particle")
def test_what_the_decoder_has_no_memory_for_is_not_decoded_once_more():
    case = pipelines.CASES["stable_diffusion"]
    sampler = es.PipelineSampler(case.build(), "a red cat", steps=2, batch_size=2, **case.kwargs)
    finished, _ = sampler.run(sampler.prior(3), 2)
    own, tried = sampler._decode, []

    def call(x):
        tried.append(len(x))
        if any(torch.equal(row, finished.x[1]) for row in x):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(x)

    sampler.decode(finished[[0]])
    sampler._decode = call
    _, whole = exactly(sampler, finished)
    assert whole.tolist() == [True, False, True] and sampler.left_out == {int(finished.id[1])}
    before = len(tried)
    exactly(sampler, finished[[1]])
    assert len(tried) - before == 2  # at once, and alone


def test_other_errors_are_not_taken_for_it():
    assert exhausted(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert not exhausted(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not exhausted(MemoryError())
    with pytest.raises(RuntimeError, match="illegal"):
        within(lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: illegal")), lambda: True)
    assert [half(size) for size in (2, 3, 8, 12, 16)] == [1, 2, 4, 8, 8]


# Numbers that are not finite


def broken(at, rows=(1,)):
    """A sampler whose states in some rows of the first micro-batch are not finite from a level on."""
    own, level, calls = toy.sampler(), iter(range(99)), []

    def denoise(x, alpha, sigma):
        calls.append(next(level))
        if len(calls) == at + 1:
            x = x.clone()
            x[list(rows)] = torch.nan
        return alpha * x

    return es.DenoiserSampler(denoise, own.path, own.shape, decode=own._decode, batch_size=4)


def test_states_that_are_not_finite_are_invalid_and_told_of(tmp_path):
    seen = []

    def reward(samples, prompts):
        seen.append(samples.isfinite().all().item())
        return toy.bright(samples, prompts)

    result = toy.found(pipe=broken(2), reward=reward, algorithm="best_of_n", run_dir=tmp_path / "run")
    assert result.invalid == 1 and len(result.kept) == 16 and all(seen)
    bad = [id for g in result.generations for id, r in zip(g.ids, g.rewards, strict=True) if math.isnan(r)]
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = [e["particles"] for e in events if e["event"] == "not finite"]
    assert told == [[f"{id:016x}" for id in bad]]
    again = toy.found(pipe=toy.sampler(), reward=reward, algorithm="best_of_n", run_dir=tmp_path / "run", resume=True)
    assert outcome(again)[0] == outcome(result)[0]


def test_what_a_decoder_makes_of_finite_states_is_made_again_in_single_precision():
    case = pipelines.CASES["stable_diffusion"]
    pipe = case.build()
    pipe.vae.to(torch.bfloat16)
    own, dtypes = pipe.vae.decode, []

    def decode(z, *args, **kwargs):
        dtypes.append(pipe.vae.dtype)
        found = own(z.to(pipe.vae.dtype), *args, **kwargs)
        if pipe.vae.dtype != torch.float32:
            found[0][:1] = torch.nan
        return found

    pipe.vae.decode = decode
    result = es.search(pipe, "a red cat", toy.bright, "best_of_n", steps=2, n=4, batch_size=2, budget=None,
                       pipeline_kwargs=case.kwargs, progress=False)  # fmt: skip
    assert result.invalid == 0
    assert torch.float32 in dtypes and pipe.vae.dtype == torch.bfloat16
