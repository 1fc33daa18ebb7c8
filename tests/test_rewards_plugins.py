"""Rewards of other packages: found by what is installed, imported when asked for, and their failures said."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import evosearch as es
from evosearch import cli, rewards

CODE = """
def red(samples, prompts):
    return samples[:, 0].mean((1, 2))

class Blue:
    def __call__(self, samples, prompts):
        return samples[:, 2].mean((1, 2))

class Fussy:
    def __init__(self):
        raise RuntimeError("no luck today.\\nReally none")

class Lightness:
    def __call__(self, image):
        return image.getpixel((0, 0))[0] / 255

def three(samples, prompts, strictness):
    return samples.flatten(1).mean(1)

number = 3
"""
UNKNOWN = "import it to know"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package on the path, as an installer lays it out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(entries, package="other-rewards", version="1.2", code=CODE, summary="How red it is."):
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        said = f"Summary: {summary}\n" if summary else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{said}")
        (info / "entry_points.txt").write_text("\n".join(["[evosearch.rewards]", *entries, ""]))
        return tmp_path

    yield install
    for module in ("other_rewards", "third_rewards"):
        sys.modules.pop(module, None)


def listed() -> str:
    result = CliRunner().invoke(cli.app, ["list", "rewards"])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("name", "score"), [("redness", 0.25), ("so-blue", 0.75), ("so_blue", 0.75)])
def test_a_function_and_a_class_are_loaded_by_name(install, name, score):
    install(["redness = other_rewards:red", "so-blue = other_rewards:Blue"])
    samples = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert rewards.load(name)(samples, ["a red circle"]).tolist() == [score]
    assert rewards.resolve({name: 2})(samples, ["a red circle"]).tolist() == [2 * score]


def test_one_that_takes_a_picture_is_given_pictures(install):
    install(["lightness = other_rewards:Lightness"])
    samples = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert rewards.load("lightness")(samples, ["", ""]).tolist() == pytest.approx([0.2, 0.6])
    assert rewards.resolve("minimum(lightness)")(samples, ["", ""]).tolist() == pytest.approx([0.2, 0.6])


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        ('[redness]\nrange = "0 to 1"\nlicence = "MIT"\nneeds = "no prompt"\ndownload = "about 3 GB"\nmore = "x"',
         ["0 to 1", "MIT", "no prompt", "about 3 GB"]),
        ('[redness]\nrange = "0 to 1"\nlicence = 7\n[blueness]\nneeds = "a prompt"', ["0 to 1", *[UNKNOWN] * 3]),
        ('[redness]\nrange = "\\u001b[31m0 to 1"', ["?[31m0 to 1", *[UNKNOWN] * 3]),
        ("redness = 3", [UNKNOWN] * 4),
        ("[redness", [UNKNOWN] * 4),
    ],
)  # fmt: skip
def test_what_it_declares_is_listed_and_nothing_imported(install, declared, shown):
    folder = install(["redness = other_rewards.of.colour:red"])
    (folder / "other_rewards.py").unlink()
    package = folder / "other_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "evosearch_rewards.toml").write_text(declared)
    lines = [line.strip() for line in listed().splitlines()]
    start = lines.index("package: other-rewards 1.2, entry point redness = other_rewards.of.colour:red") - 4
    said = [line.partition(": ") for line in lines[start : start + 4]]
    assert [word for word, _, _ in said] == ["range", "licence", "needs", "download"]
    assert [text.replace("\N{REPLACEMENT CHARACTER}", "?") for _, _, text in said] == shown
    assert "other_rewards" not in sys.modules


def test_a_search_goes_by_it(install):
    install(["redness = other_rewards:red"])
    result = es.search("shapes-diffusion", "two red circles", "redness", "best_of_n", budget="2x", progress=False)
    assert 0 < result.best.reward < 1


def test_it_is_listed_with_its_package_and_not_imported(install):
    folder = install(["redness = other_rewards:red"], code="raise SystemExit('imported')")
    assert re.search(
        r"^redness +How red it is\.\n"
        r" +range: import it to know\n +licence: import it to know\n +needs: import it to know\n +download: import .*\n"
        r" +package: other-rewards 1\.2, entry point redness = other_rewards:red\n"
        rf" +{re.escape(str(folder))}\n",
        listed(),
        re.M,
    )
    assert "other_rewards" not in sys.modules


def test_a_package_that_says_little_is_listed_too(install):
    folder = install(["a-name-of-more-than-20-letters = other_rewards:red"], summary="")
    assert re.search(r"^a_name_of_more_than_20_letters A plug-in, whose package says nothing of it\.$", listed(), re.M)
    (folder / "other_rewards-1.2.dist-info" / "METADATA").unlink()
    assert "entry point a-name-of-more-than-20-letters = other_rewards:red" in listed()


def test_what_a_package_says_of_itself_does_not_control_the_terminal(install):
    install(["redness = other_rewards:red"], summary="\x1b[31mred")
    assert "\x1b" not in listed() and "[31mred" in listed()


def test_an_unknown_name_names_them(install):
    install(["redness = other_rewards:red"])
    with pytest.raises(ValueError, match=r"one of shapes, .*, redness or a callable.*; did you mean 'redness'\?"):
        rewards.load("rednes")


def test_ours_wins_and_the_list_says_so(install):
    install(["jpeg = other_rewards:red", "shapes-clip = other_rewards:red"])
    assert rewards.load("jpeg").__module__ == "evosearch.rewards.jpeg"
    shown = listed()
    for name in ("jpeg", "shapes_clip"):
        assert re.search(
            rf"^{name} +How.*\n(?: +.*\n)* +package: .*\n +hidden by the built-in reward of this name\n", shown, re.M
        )
    with pytest.raises(ValueError, match="got 'none'") as caught:
        rewards.load("none")
    assert str(caught.value).count("jpeg") == 1


def test_of_two_packages_neither_wins(install):
    install(["redness = other_rewards:red"])
    install(["redness = third_rewards:red"], package="third-rewards", version="3")
    with pytest.raises(
        ValueError, match=r"^reward 'redness' is in several packages, other-rewards 1\.2 and third-rewards 3; uninstall"
    ):
        rewards.load("redness")
    assert listed().count("cannot be loaded: several packages have this name") == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("other_rewards:none", r"cannot be loaded by its entry point bad = other_rewards:none \(Attribute"),
        ("gone_rewards:red", r"cannot be loaded .* \(ModuleNotFoundError: No module named 'gone_rewards'\); repair"),
        ("other_rewards:Fussy", r"cannot be loaded .* \(RuntimeError: no luck today\); repair or uninstall the"),
        ("not a name!", r"cannot be loaded by its entry point bad = not a name!"),
        ("other_rewards:number", r"must be callable, but its entry point bad = other_rewards:number gives int; repair"),
        ("other_rewards", r"must be callable, but its entry point bad = other_rewards gives module; repair"),
        ("other_rewards:three", r"cannot be used by its entry point bad = other_rewards:three: reward must take one "
         r"PIL image, or samples and prompts; three takes 3 positional parameters; repair or uninstall it"),
    ],
)  # fmt: skip
def test_its_failure_is_one_sentence(install, entry, message):
    install([f"bad = {entry}"])
    with pytest.raises(ValueError, match=rf"^reward 'bad' of package other-rewards 1\.2 {message}") as caught:
        rewards.load("bad")
    assert "\n" not in str(caught.value)
    arguments = ["generate", "a red circle", "--reward", "bad", "--budget", "1x"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2 and result.stderr == f"evosearch: {caught.value}\n"


def test_nothing_of_it_is_imported_unasked(install):
    folder = install(["redness = other_rewards:red"])
    code = (
        "import sys, evosearch as es; [getattr(es, name) for name in es.__all__]; es.rewards.load('jpeg');"
        "sys.exit('other_rewards' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join([str(folder), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
