"""Workers on a Ray cluster."""

import subprocess
import sys

import pytest

import evosearch as es
from evosearch.executors.hiring import hire


@pytest.fixture
def clean(monkeypatch):
    """What Ray reads, as it is without us."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


TRIAL = """
import sys
from pathlib import Path
from evosearch.bench.chaos_workers import nodes
print(nodes("shapes-flow", Path(sys.argv[1]), 1))
"""


def test_a_node_is_killed_and_another_joins_and_the_bits_are_the_same(tmp_path):
    done = subprocess.run([sys.executable, "-c", TRIAL, tmp_path], capture_output=True, text=True, timeout=500)
    assert "0 wrong: 1 node killed, the same to the bit; node killed, noticed after" in done.stdout, done.stderr[-3000:]


def refused(text, **asked):
    with pytest.raises(ValueError, match=text), hire("shapes-flow", es.Workers(1, **asked)):
        pass


def test_a_cluster_without_a_token_is_refused(clean, tmp_path):
    clean.setenv("RAY_AUTH_MODE", "disabled")
    refused("RAY_AUTH_MODE is 'disabled'.*insecure", ray="auto")
    clean.setenv("RAY_AUTH_MODE", "token")
    clean.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    refused("token of its cluster, but .* does not exist", ray="auto")
    (tmp_path / "token").write_text("ab" * 32)
    (tmp_path / "token").chmod(0o644)
    refused("can be read by others; close it with: chmod 600", ray="auto")


def test_ray_that_is_not_installed_is_named(clean):
    clean.setattr("evosearch.executors.rays.find_spec", lambda name: None)
    refused(r"pip install 'evosearch\[ray\]'", ray="auto")


def test_ray_is_not_imported_unless_it_is_asked_for():
    code = (
        "import sys, evosearch.run, evosearch.cli; assert not {name for name in sys.modules if name.startswith('ray')}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
