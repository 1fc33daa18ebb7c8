"""The nouns: Population, and the protocols of a sampler and a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from evosearch.path import NoisePath


class Gene(NamedTuple):
    """One event in the making of a particle; a tuple of them, its genome, is enough to make it again.

    Attributes:
        op: ``prior``, ``branch`` (new noise from here on), ``given`` (the state as it stands) or a mutation's name.
        level: Level at which it happened.
        id: Identity that the particle took there; a mutation's own noise is keyed by it.
        key: Noise key from there on.
        seed: Run seed of the noise that this event drew.
        rate: Mutation rate, where there is one.
        source: For re-noising, the level that it came from.
        state: For ``given``, the bytes of the state, (*D) float32.
        eta: Of the steps from there on, where it is not the one before.
    """

    op: str
    level: int
    id: int
    key: int
    seed: int = 0
    rate: float | None = None
    source: int | None = None
    state: bytes | None = None
    eta: float | None = None


Genome = tuple[Gene, ...]


@dataclass(frozen=True, eq=False)
class Population:
    """A batch of states at one level; a row is a particle. Never changed in place.

    Attributes:
        x: Noisy states, (N, *D) float32.
        i: Level in 0..steps: denoising steps taken; 0 is pure noise.
        key: Which noise a particle meets from here on, (N,) int64.
        id: Who a particle is, (N,) int64; the key at birth unless given.
        x0: Predicted clean states, (N, *D), where they have been paid for.
        eps: Predicted noise, only where it does not follow from x and x0 (schedulers that clip x0).
        memory: x0 of the level before, (N, *D), for second-order steps.
        reward: (N,) float32; NaN where invalid. Of several rewards unweighted, (N, R).
        log_weight: Logarithm of how much each particle stands for, (N,) float64; None where all stand for the same.
        parent: Id of the particle that a row was made from, (N,) int64; -1 for fresh ones.
        genomes: How each particle came to be, N genomes.
    """

    x: Tensor
    i: int
    key: Tensor
    id: Tensor = field(default=None)  # type: ignore[assignment]
    x0: Tensor | None = None
    eps: Tensor | None = None
    memory: Tensor | None = None
    reward: Tensor | None = None
    log_weight: Tensor | None = None
    parent: Tensor = field(default=None)  # type: ignore[assignment]
    genomes: tuple[Genome, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.id is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "id", self.key.clone())
        if self.parent is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "parent", torch.full((n,), -1, dtype=torch.int64))
        if not self.genomes:
            object.__setattr__(self, "genomes", ((),) * n)
        for name in _ROWS:
            rows = getattr(self, name)
            if rows is not None and len(rows) != n:
                raise ValueError(f"{name} must have one row a particle: expected {n}, got {len(rows)}")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> Population:
        """Select rows and nothing else: a row chosen twice stays one and the same particle (see `branch`)."""
        where = torch.arange(len(self))[index if isinstance(index, slice) else torch.as_tensor(index)]
        if where.ndim == 0:
            raise TypeError("a population is indexed by a slice, a list or a tensor of rows; use p[[k]] for one row")
        rows = {name: getattr(self, name) for name in _ROWS}
        picked = {name: None if v is None else v[where] for name, v in rows.items() if name != "genomes"}
        return replace(self, **picked, genomes=tuple(self.genomes[k] for k in where.tolist()))

    def repeat(self, m: int) -> Population:
        """Each row m times, copies side by side: rows 0..m-1 are particle 0."""
        return self[torch.arange(len(self)).repeat_interleave(m)]

    def split(self, size: int) -> Iterator[Population]:
        """Yield the rows in turn, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def branch(self, index: Tensor | Sequence[int], rng: torch.Generator) -> Population:
        """Select rows; every copy of a particle but the first becomes a new one, with noise of its own."""
        p, seen = self[index], set[int]()
        new = torch.tensor([i in seen or seen.add(i) is not None for i in p.id.tolist()], dtype=torch.bool)
        return p.born("branch", rng, where=new)

    def born(
        self,
        op: str,
        rng: torch.Generator,
        *,
        inherit_noise: bool = False,
        rate: float | None = None,
        eta: float | None = None,
        where: Tensor | None = None,
    ) -> Population:
        """Give rows a new identity, their old one becoming their parent.

        Args:
            op: What made them; goes into the genome.
            rng: Draws the new ids.
            inherit_noise: Keep the key, so that a child meets its parent's later noise.
            rate: Mutation rate, for the genome.
            eta: That they are run with from here on, for the genome; None where it stays the same.
            where: (N,) bool, the rows concerned; all by default.
        """
        where = torch.ones(len(self), dtype=torch.bool) if where is None else where
        fresh = new_ids(len(self), rng)
        id = torch.where(where, fresh, self.id)
        key = self.key if inherit_noise else torch.where(where, fresh, self.key)
        parent = torch.where(where, self.id, self.parent)
        seed = rng.initial_seed()
        genes = [Gene(op, self.i, int(a), int(k), seed, rate, eta=eta) for a, k in zip(id, key, strict=True)]
        genomes = tuple((*g, gene) if w else g for g, gene, w in zip(self.genomes, genes, where.tolist(), strict=True))
        return replace(self, id=id, key=key, parent=parent, genomes=genomes)

    def given(self, x: Tensor, rng: torch.Generator, eta: float | None = None) -> Population:
        """Children at states that no keyed noise has made: their genomes hold them whole, the last one at a level."""
        child = self.born("given", rng, eta=eta)
        states = [row.contiguous().numpy().tobytes() for row in x.float()]
        before = [tuple(g for g in genome if g.op != "given" or g.level < self.i) for genome in self.genomes]
        latest = [genome[-1]._replace(state=state) for genome, state in zip(child.genomes, states, strict=True)]
        genomes = tuple((*genes, gene) for genes, gene in zip(before, latest, strict=True))
        return replace(child.moved(x), genomes=genomes)

    def moved(self, x: Tensor, i: int | None = None, **fields: Any) -> Population:
        """The same particles at new states: predictions, solver memory and rewards no longer hold."""
        i = self.i if i is None else i
        return replace(self, x=x, i=i, **{"x0": None, "eps": None, "memory": None, "reward": None, **fields})


_ROWS = ("x", "key", "id", "x0", "eps", "memory", "reward", "log_weight", "parent", "genomes")


def concat(*populations: Population) -> Population:
    """Join populations of one level. An optional field survives only where all of them have it."""
    levels = {p.i for p in populations}
    if len(levels) != 1:
        raise ValueError(f"concat joins populations of one level, got levels {sorted(levels)}")

    def joined(name: str) -> Tensor | None:
        parts = [getattr(p, name) for p in populations]
        return None if any(v is None for v in parts) else torch.cat(parts)

    rows = {name: joined(name) for name in _ROWS if name != "genomes"}
    return replace(populations[0], **rows, genomes=sum((p.genomes for p in populations), ()))


def concat_runs(
    runs: Sequence[tuple[Population, dict[int, Population]]],
) -> tuple[Population, dict[int, Population]]:
    """Join what `Sampler.run` has returned of several micro-batches."""
    ends, kept = zip(*runs, strict=True)
    return concat(*ends), {level: concat(*(each[level] for each in kept)) for level in kept[0]}


def new_ids(n: int, rng: torch.Generator) -> Tensor:
    """(n,) int64 identities; 63 random bits each, so that two never meet."""
    return torch.randint(0, 2**63 - 1, (n,), generator=rng, dtype=torch.int64)


Sample = Image.Image | list[Image.Image]
"""An image, or the frames of a video."""


def pictures(sample: Tensor) -> Sample:
    """One sample as PIL: (3, H, W) uint8 to an image, (F, 3, H, W) to a list of frames."""
    if sample.ndim == 4:
        return [Image.fromarray(frame.movedim(0, -1).numpy()) for frame in sample]
    return Image.fromarray(sample.movedim(0, -1).numpy())


class Sampler(Protocol):
    """A conditioned generator that a search steers. Values go in unchanged, new ones come out."""

    @property
    def steps(self) -> int:
        """Denoising steps of a whole trajectory."""
        ...

    @property
    def path(self) -> NoisePath:
        """The grid of noise levels."""
        ...

    @property
    def batch_size(self) -> int:
        """Particles in one pass of the model."""
        ...

    @property
    def edits(self) -> bool:
        """Whether the pipeline has been seen to edit states between steps."""
        ...

    def prior(self, n: int) -> Population:
        """Make n fresh particles at level 0."""
        ...

    def start(self, noise: Tensor) -> Tensor:
        """States at level 0 from unit Gaussian noise: itself, unless the pipeline starts from an image."""
        ...

    def predict(self, p: Population) -> Population:
        """Fill x0. Costs one NFE a particle; nothing where x0 is set."""
        ...

    def step(
        self, p: Population, eta: float | None = None, noise: Tensor | None = None, to: int | None = None
    ) -> Population:
        """Take predicted particles one level on, or further. Arithmetic."""
        ...

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """Denoise up to a level, all levels or those in ``through``; also return the states at those in ``keep``."""
        ...

    def cost(self, p: Population, until: int, through: Sequence[int] | None = None) -> int:
        """NFE that `run` to this level will take."""
        ...

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> Sampler:
        """The same sampler, whose network takes features over from the step before; ValueError where none can."""
        ...

    def prices(self, levels: Sequence[int]) -> list[float]:
        """NFE of each step of a run through these levels, measured; not counted."""
        ...

    @property
    def computed(self) -> int:
        """NFE computed so far, by every call together."""
        ...

    def renoise(self, p: Population, level: int) -> Population:
        """Take particles back to a noisier level by fresh noise."""
        ...

    def decode(self, p: Population) -> Tensor:
        """Finished states, or the x0 of predicted ones, as (N, [F,] 3, H, W) in [0, 1]."""
        ...

    def grad(self) -> AbstractContextManager[None]:
        """Within, what is run and decoded has a gradient in the states that it came from."""
        ...

    def noise(self, keys: Tensor, level: int, purpose: str) -> Tensor:
        """Keyed unit Gaussian noise, (N, *D)."""
        ...

    def to_grid(self, x: Tensor) -> Tensor:
        """States as (N, C, [F,] H, W); ValueError where they have no such form."""
        ...

    def from_grid(self, x: Tensor) -> Tensor:
        """The inverse of `to_grid`."""
        ...


class Reward(Protocol):
    """What a search sees of a reward: samples in, (N,) float32 out, higher is better. The prompt is bound.

    A search that says so (``pareto``) may be given several rewards unweighted, (N, R).
    """

    def __call__(self, samples: Tensor, /) -> Tensor:
        """Score samples (N, [F,] 3, H, W) in [0, 1]."""
        ...
