"""A population of any size needs one micro-batch of decoded samples, and states on the CPU."""

import weakref

import torch
from pipelines import CASES

import evosearch as es


def test_decoded_samples_never_pile_up():
    case = CASES["stable_diffusion"]
    alive: set[int] = set()
    most_alive, most_rows = 0, 0

    def reward(samples, prompts):
        nonlocal most_alive, most_rows
        alive.add(id(samples))
        weakref.finalize(samples, alive.discard, id(samples))
        most_alive, most_rows = max(most_alive, len(alive)), max(most_rows, len(samples))
        return samples.mean((1, 2, 3))

    es.search(
        case.build(), "a red cat", reward, "evosearch", batch_size=4, steps=2, pipeline_kwargs=case.kwargs,
        schedule=[0], sizes=[64, 32], progress=False,
    )  # fmt: skip
    assert most_rows == 4
    assert most_alive <= 2


def test_the_decoder_sees_a_micro_batch_at_a_time():
    case = CASES["stable_diffusion"]
    pipe = case.build()
    rows: list[int] = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    sampler = es.PipelineSampler(pipe, "a red cat", steps=2, batch_size=4, **case.kwargs)
    finished, _ = sampler.run(sampler.prior(10), 2)
    sampler.decode(finished)
    assert rows == [4, 4, 4]


def test_states_between_calls_lie_on_the_cpu():
    case = CASES["stable_diffusion"]
    sampler = es.PipelineSampler(case.build(), "a red cat", steps=2, batch_size=4, **case.kwargs)
    finished, kept = sampler.run(sampler.prior(5), 2, keep=(1,))
    states = [finished.x, kept[1].x, kept[1].x0]
    assert all(x.device == torch.device("cpu") and x.dtype == torch.float32 and not x.requires_grad for x in states)
