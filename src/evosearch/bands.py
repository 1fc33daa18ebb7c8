"""The coarse part of a noise: its means over square blocks, which is its Haar approximation.

Scaled so that it is unit Gaussian where the noise is.
"""

from __future__ import annotations

from torch import Tensor


def block_of(grid: Tensor, cells: int) -> int:
    """Side of the largest blocks that divide a grid (N, C, [F,] H, W) and number at least ``cells`` along each side."""
    height, width = grid.shape[-2:]
    fitting = [b for b in range(1, min(height, width) // cells + 1) if height % b == 0 == width % b]
    if not fitting:
        raise ValueError(f"cells must be at most {min(height, width)}, the grid's shorter side, got {cells}")
    return fitting[-1]


def coarse(grid: Tensor, block: int) -> Tensor:
    """Means of blocks, times the block's side: (N, C, [F,] H, W) to (N, C, [F,] H / block, W / block)."""
    height, width = grid.shape[-2:]
    tiles = grid.reshape(*grid.shape[:-2], height // block, block, width // block, block)
    return tiles.mean((-3, -1)) * block


def with_coarse(grid: Tensor, part: Tensor) -> Tensor:
    """A noise (1 or N, C, [F,] H, W) with other coarse parts (N, C, [F,] h, w), its fine part left as it is."""
    block = grid.shape[-1] // part.shape[-1]
    change = (part - coarse(grid, block)) / block
    return grid + change.repeat_interleave(block, -2).repeat_interleave(block, -1)
