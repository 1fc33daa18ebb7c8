"""Who may import whom, and what every module says of itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from evosearch import searches

SRC = Path(searches.__file__).parents[1]
MODULES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)

OPERATORS = {"noise", "path", "resampling", "selection", "mutation", "bands", "scoring", "steering"}
KEPT = {"journal", "memory", "negatives", "decoding"}
ALLOWED = {
    "types": {"path"},  # for its annotations alone
    "checks": set(),
    "noise": set(),
    "path": set(),
    "resampling": set(),
    "bands": set(),
    "selection": set(),
    "mutation": {"types", "path", "noise"},
    "declaration": {"types"},
    "scoring": {"types"},
    "steering": {"types", "scoring"},
    "drafts": {"types", "declaration", "noise", "scoring", "selection", "steering"},
    "genome": {"types", "noise", "mutation"},
    "memory": set(),
    "stepper": {"types", "path", "noise"},
    "sampler": {"types", "path", "memory", "stepper"},
    "seam": {"types", "path", "noise", "stepper"},
    "hooks": {"types", "path", "noise", "stepper", "seam"},
    "features": {"types", "path", "noise", "stepper", "seam", "hooks"},
    "refusals": set(),
    "pipeline": {"types", "path", "noise", "stepper", "sampler", "seam", "hooks", "features", "refusals"},
    "budget": {"types", "checks", "declaration"},
    "digests": set(),
    "disk": set(),
    "decoding": {"types", "digests"},
    "negatives": {"types", "digests", "decoding"},
    "journal": {"types"},
    "ledger": {"types", "disk", "journal", "rows", "strict_json"},
    "hacking": {"types", "negatives"},
    "result": {"types", "budget", "selection", "hacking", "negatives"},
    "turns": {"types", "budget", "decoding"},
    "metered": {"types", "budget", "journal", "decoding", "turns"},
    "manifest": {"strict_json"},
    "rows": set(),
    "lock": set(),
    "interrupts": set(),
    "runs": {"types", "genome", "manifest", "rows"},
    "judging": {"types", "rewards"},
    "metered_reward": {"types", "budget", "result", "rewards", "selection", "hacking", "metered", "judging", *KEPT},
    "held_out": {"types", "budget", "rewards", "judging", "journal", "negatives"},
    "searches": {"types", "checks", "declaration", *OPERATORS, "drafts", "searches"},
    "rewards": {"types", "checks", "shapes", "digests", "rewards"},
    "shapes": set(),
    "prompts": set(),
    "suites": {"store", "strict_json", "progress", "suites"},
}


def _layer(name):
    return name.split(".")[0]


def _imports(path):
    """Modules of evosearch that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "evosearch":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evosearch."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("evosearch.")}
    return found


@EVERY_MODULE
def test_a_layer_imports_only_the_layers_below(name):
    allowed = ALLOWED.get(_layer(name))
    if allowed is not None:
        assert _imports(MODULES[name]) <= allowed


def test_the_layers_exist():
    assert set(ALLOWED) <= {_layer(name) for name in MODULES}


def test_nothing_in_the_package_needs_tests_or_training():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {_layer(module) for module in modules} & {"tests", "training", "pytest", "hypothesis"}


BLOCKED = """
import sys

extras = ["open_clip", "peft", "ray", "matplotlib", "sklearn", "pandas", "cmaes", "ribs"]
sys.modules.update(dict.fromkeys(extras))  # None: not installed
import evosearch as es
assert "torch" not in sys.modules, "import evosearch must not import torch"
for name in es.__all__:
    getattr(es, name)
"""


def test_the_package_imports_without_its_extras():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@EVERY_MODULE
def test_every_module_says_what_it_is(name):
    text = MODULES[name].read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("name", searches.__all__)
def test_every_search_says_what_it_costs(name):
    search = getattr(searches, name)
    assert "\n    NFE: " in search.__doc__
    assert callable(search.nfe) and callable(search.fit)


BASELINES = {"best_of_n"}  # from no paper in particular


@pytest.mark.parametrize("name", sorted({*searches.__all__} - BASELINES))
def test_every_search_of_a_paper_names_it(name):
    doc = sys.modules[getattr(searches, name).__module__].__doc__
    assert "arXiv:" in doc
    assert "Differs from the paper" in doc
