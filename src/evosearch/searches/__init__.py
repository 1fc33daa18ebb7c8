"""Searches: every public function here is one.

A search is a generator function ``(sampler, reward, rng, *, knobs)``: it calls the sampler and the reward, and yields
populations when there is something to see. A yield at ``i == sampler.steps`` with rewards is a finished answer.
"""

from evosearch.searches.backtrack import backtrack
from evosearch.searches.beam import beam
from evosearch.searches.best_of_n import best_of_n
from evosearch.searches.blockwise import blockwise
from evosearch.searches.demon import demon
from evosearch.searches.drafts import drafts
from evosearch.searches.epsilon_greedy import epsilon_greedy
from evosearch.searches.evolution_strategy import evolution_strategy
from evosearch.searches.evosearch import evosearch
from evosearch.searches.lidar import lidar
from evosearch.searches.paper_evosearch import paper_evosearch
from evosearch.searches.particles import particles
from evosearch.searches.planned_evosearch import planned_evosearch
from evosearch.searches.reno import reno
from evosearch.searches.rollover import rollover
from evosearch.searches.search_over_paths import search_over_paths
from evosearch.searches.spectral import spectral
from evosearch.searches.svdd import svdd
from evosearch.searches.tree import tree
from evosearch.searches.trust_region import trust_region
from evosearch.searches.zero_order import zero_order

__all__ = [
    "backtrack", "beam", "best_of_n", "blockwise", "demon", "drafts", "epsilon_greedy", "evolution_strategy",
    "evosearch", "lidar", "paper_evosearch", "particles", "planned_evosearch", "reno", "rollover",
    "search_over_paths", "spectral", "svdd", "tree", "trust_region", "zero_order",
]  # fmt: skip
