"""Genomes read back: a particle, or its initial noise alone, made again from its list of genes."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import torch

from evosearch.mutation import mutated
from evosearch.noise import normal
from evosearch.types import Gene, Genome, Population, Sampler


def to_json(genome: Genome) -> list[dict[str, Any]]:
    """Genes as plain dictionaries, without what is not set."""
    genes = [{name: v for name, v in gene._asdict().items() if v is not None} for gene in genome]
    return [gene | {"state": b64encode(gene["state"]).decode()} if "state" in gene else gene for gene in genes]


def from_json(genes: list[dict[str, Any]]) -> Genome:
    """The inverse of `to_json`."""
    return tuple(_gene(**gene) for gene in genes)


def _gene(state: str | None = None, **fields: Any) -> Gene:
    return Gene(**fields, state=None if state is None else b64decode(state))


def replay(genome: Genome, sampler: Sampler, until: int | None = None, eta: float | None = None) -> Population:
    """Make one particle again.

    Args:
        genome: Its genes, the first of them ``prior``.
        sampler: A sampler of the same model, prompt and steps. Its seed matters only for the fresh noise of steps
            where eta is above 0; the genome has its own for all else.
        until: Level to stop at; the end by default. At 0: the initial noise, mutations of it included.
        eta: As in the run that made the particle; genes that name another have it from there on.

    Returns:
        A population of one.
    """
    until = sampler.steps if until is None else until
    prior, *events = genome
    keys = torch.tensor([prior.key])
    shape = sampler.noise(keys, 0, "prior").shape[1:]
    x = sampler.start(normal(prior.seed, keys, 0, "prior", shape))
    p = Population(x, 0, keys, genomes=((prior,),))
    given = [k for k, gene in enumerate(events) if gene.op == "given" and gene.level <= until]
    for gene in events[given[-1] if given else 0 :]:
        level = gene.level if gene.source is None else gene.source
        if min(level, gene.level) > until:
            break
        if level > p.i and gene.op != "given":
            p = sampler.run(p, level, eta=eta)[0]
        p = _event(p, gene, sampler)
        eta = eta if gene.eta is None else gene.eta
    return sampler.run(p, until, eta=eta)[0] if until > p.i else p


def _event(p: Population, gene: Gene, sampler: Sampler) -> Population:
    born = replace(p, id=torch.tensor([gene.id]), key=torch.tensor([gene.key]), genomes=((*p.genomes[0], gene),))
    if gene.op == "branch":
        return born
    shape = p.x.shape[1:]
    if gene.op == "given":
        assert gene.state is not None
        return born.moved(torch.frombuffer(bytearray(gene.state), dtype=torch.float32).view(1, *shape), gene.level)
    if gene.op == "renoise":
        z = normal(gene.seed, born.key, gene.level, "renoise", shape)
        return born.moved(sampler.path.renoise(p.x, p.i, gene.level, z), gene.level)
    z = normal(gene.seed, born.id, gene.level, "mutation", shape)
    p = sampler.predict(p) if gene.level > 0 else p
    return born.moved(mutated(p, z, sampler, gene.op, gene.rate or 0.0))
