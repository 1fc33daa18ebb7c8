"""README's code runs, as written, on the bundled model."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{k}" for k in range(len(BLOCKS))])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    result = names["result"]
    assert result.best.reward >= result.plain.reward
    assert result.cost.nfe > 0


def test_there_are_blocks():
    assert len(BLOCKS) >= 3


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!http)([^)]+)\)", README.read_text())
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
