"""Searches: every public function here is one.

A search is a generator function ``(sampler, reward, rng, *, knobs)``: it calls the sampler and the reward, and yields
populations when there is something to see. A yield at ``i == sampler.steps`` with rewards is a finished answer.
"""

from evosearch.searches.best_of_n import best_of_n
from evosearch.searches.evosearch import evosearch

__all__ = ["best_of_n", "evosearch"]
