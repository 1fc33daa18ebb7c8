"""The command line, as a user meets it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import judges
import pytest
import torch
import toy
from PIL import Image
from typer.testing import CliRunner

import evosearch as es
from evosearch import cli, demo, models, store
from evosearch.bench import saturation
from evosearch.bench.cells import fingerprint
from evosearch.curve import number

QUICK = ["--steps", "2", "--budget", "5x", "--batch-size", "4"]


@pytest.fixture(scope="module")
def load():
    """The real loader, which loads each model once."""
    return functools.cache(models.load)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, load):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load", load)
    return tmp_path


def evosearch(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def refused(message: str, *arguments, code=2) -> str:
    """One sentence on standard error, and nothing written."""
    before = sorted(Path().rglob("*"))
    result = evosearch(*arguments, code=code)
    assert result.stdout == ""
    assert re.fullmatch(r"evosearch: [^\n]+\n", result.stderr), result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert sorted(Path().rglob("*")) == before
    return result.stderr


def manifest_of(folder: str) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text())


# generate


def test_generate_writes_a_new_folder_each_time():
    first = evosearch("generate", "two red circles", *QUICK)
    manifest = manifest_of("runs/0001")
    assert manifest["status"] == "done"
    assert manifest["cost"]["nfe"] == 10
    best = Path("runs/0001") / manifest["kept"][0]["file"]
    assert f"best reward   {manifest['kept'][0]['reward']:.3f}" in first.stdout
    assert f"plain sample {manifest['plain']['reward']:.3f}" in first.stdout
    assert f"best sample   {best}\n" in first.stdout and best.is_file()
    assert "report        runs/0001/report.html\n" in first.stdout
    assert Path("runs/0001/report.html").is_file()
    evosearch("generate", "two red circles", *QUICK)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["0001", "0002"]


def test_generate_passes_every_option_on():
    evosearch(
        *("generate", "a blue star", "--model", "shapes-diffusion", "--reward", "shapes", "--reward", "jpeg=.01"),
        *("--algorithm", "evosearch", "--budget", "200", "--steps", "2", "--eta", ".5", "--seed", "7"),
        *("--batch-size", "4", "--out", "here", "--knob", "rate=.3", "--knob", "schedule=[0, 1]"),
        *("--knob", "sizes=[4,3,2]", "--knob", "mutation=additive", "--set", "guidance_scale=1.5"),
        *("--held-out", "jpeg", "--quiet"),
    )
    manifest = manifest_of("here")
    settings = manifest["settings"]
    assert settings["reward"] == "1 shapes + 0.01 jpeg"
    given = {"rate": 0.3, "schedule": [0, 1], "sizes": [4, 3, 2], "mutation": "additive", "eta": 0.5}
    assert settings["knobs"] | given == settings["knobs"]
    assert (settings["steps"], settings["seed"], settings["budget"]) == (2, 7, "200 NFE")
    assert 1 <= settings["batch_size"] <= 4
    assert settings["pipeline_kwargs"]["guidance_scale"] == 1.5
    assert manifest["kept"][0]["held_out"].keys() == {"jpeg"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["minimum(shapes, jpeg)"], "minimum(shapes, jpeg)"),
        (
            ["constrained(maximise=jpeg, subject_to={shapes: .3})"],
            "constrained(maximise=jpeg, subject_to={shapes: .3})",
        ),
        (["z_scored(shapes, jpeg, settle=4)=2", "jpeg=.5"], "2 z_scored(shapes, jpeg, settle=4) + 0.5 jpeg"),
        (["shapes", "jpeg"], "1 shapes + 1 jpeg"),
    ],
)
def test_rewards_are_combined(given, name):
    out = evosearch("generate", "a blue star", *QUICK, *(f"--reward={text}" for text in given), "--out", "here").stdout
    manifest = manifest_of("here")
    assert manifest["settings"]["reward"] == name
    parts = manifest["kept"][0]["parts"]
    assert {"shapes", "jpeg"} <= parts.keys()
    for part, value in parts.items():
        assert f"of which      {part} {number(value)}\n" in out


def test_a_front_is_kept_and_said():
    out = evosearch("generate", "a blue star", *QUICK, "--reward", "pareto(shapes, jpeg)", "--out", "here").stdout
    manifest = manifest_of("here")
    assert f"front         {manifest['front']} samples that no other beats" in out
    rewards = [tuple(entry["parts"].values()) for entry in manifest["kept"][: manifest["front"]]]
    assert rewards == sorted(rewards, reverse=True) and len(rewards) >= 1


def test_reward_hacking_is_warned_of(monkeypatch):
    import evosearch.rewards.jpeg as jpeg

    monkeypatch.setattr(jpeg, "jpeg", lambda samples, prompts: -samples.flatten(1).mean(1))
    monkeypatch.setattr(
        "evosearch.rewards.shapes_quality.shapes_quality", lambda samples, prompts: samples.flatten(1).mean(1)
    )
    result = evosearch(
        *("generate", "a blue star", "--steps", "1", "--budget", "120x", "--algorithm", "best_of_n"),
        *("--reward", "shapes_quality", "--held-out", "jpeg", "--out", "here"),
    )
    assert "warning       reward hacking is likely: held-out jpeg fell from" in result.stderr
    assert [alarm["reward"] for alarm in manifest_of("here")["alarms"]] == ["jpeg"]
    assert "Warning: reward hacking is likely" in Path("here/report.html").read_text()


def test_quiet_prints_the_best_pictures_path_alone():
    result = evosearch("generate", "a blue star", *QUICK, "--quiet")
    assert result.stderr == ""
    Image.open(result.stdout.removesuffix("\n")).close()


def test_several_prompts_get_a_folder_each():
    Path("prompts.txt").write_text("two red circles\n\na blue star\n")
    result = evosearch("generate", "a red star", "--prompts", "prompts.txt", *QUICK, "--out", "three")
    prompts = [manifest_of(f"three/{k:04d}")["settings"]["prompt"] for k in range(3)]
    assert prompts == ["a red star", "two red circles", "a blue star"]
    assert [line for line in result.stdout.splitlines() if line in prompts] == prompts
    assert result.stdout.count("best reward") == 3


def test_prompts_of_a_set_keep_what_it_says_of_them():
    rows = [{"prompt": "a blue star", "tag": "colors", "include": []}] * 2
    Path("set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = evosearch("generate", "a red star", "--prompts", "set.jsonl", *QUICK, "--out", "three").stderr
    assert told.splitlines()[0] == "note: 1 of 3 prompts came before and is searched again"
    assert "prompt_set" not in manifest_of("three/0000")["settings"]
    for k, row in enumerate(rows):
        told = manifest_of(f"three/{k + 1:04d}")["settings"]["prompt_set"]
        assert told == {"source": "set.jsonl", "place": k, "of": 2, "entry": row}


def test_stop_at_ends_early():
    evosearch("generate", "a blue star", "--steps", "2", "--budget", "40x", "--algorithm", "best_of_n",
              "--batch-size", "4", "--stop-at", "-1", "--out", "early")  # fmt: skip
    assert manifest_of("early")["cost"]["nfe"] == 8


def test_warm_start_takes_an_earlier_runs_noises():
    evosearch("generate", "a blue star", *QUICK, "--out", "first")
    evosearch("generate", "a blue star", *QUICK, "--out", "second", "--seed", "1", "--warm-start", "first")
    second = manifest_of("second")
    assert second["settings"]["warm_start"] == "first"
    evosearch("generate", "a blue star", *QUICK, "--out", "cold", "--seed", "1")
    assert second["plain"]["id"] == manifest_of("cold")["plain"]["id"]
    assert second["kept"][0]["reward"] >= manifest_of("first")["kept"][0]["reward"] - 1e-3


def test_dry_run_says_what_it_would_take_and_writes_nothing():
    result = evosearch("generate", "two red circles", "a blue star", *QUICK, "--dry-run")
    rows = dict(re.findall(r"^(\w+) +([\d,]+)", result.stdout, re.MULTILINE))
    assert (rows["prompts"], rows["NFE"]) == ("2", "20")
    assert {"seconds", "memory", "disk"} <= rows.keys()
    assert list(Path().iterdir()) == []


# what a user gets wrong


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("give at least one prompt", ["--steps", "2"]),
        ("none of them empty; got ' '", [" "]),
        ("unknown word 'circlez'", ["two red circlez"]),
        ("speaks of motion, which an image cannot show; generate a video", ["a red circle moves left"]),
        ("did you mean 'evosearch'", ["a blue star", "--algorithm", "evosaerch"]),
        ("did you mean 'shapes-diffusion'", ["a blue star", "--model", "shape-diffusion", "--reward", "shapes"]),
        ("did you mean 'shapes'", ["a blue star", "--reward", "shape"]),
        ("model must be a bundled one .*got 'shapes-clip'", ["a blue star", "--model", "shapes-clip"]),
        ("--reward must be named for owner/name", ["a blue star", "--model", "owner/name"]),
        ("--reward jpeg must have a number", ["a blue star", "--reward", "jpeg=much"]),
        ("did you mean 'minimum'", ["a blue star", "--reward", "minimun(shapes, jpeg)"]),
        (
            "reward must be one number for demon",
            ["a blue star", "--algorithm", "demon", "--reward", "pareto(shapes, jpeg)"],
        ),
        ('budget must be a Budget, NFE as a whole number, "20x"', ["a blue star", "--budget", "lots"]),
        ("budget must be at least 2 NFE", ["a blue star", "--budget", "1", "--steps", "2"]),
        ("has no knob 'ratio'.*did you mean 'rate'", ["a blue star", "--knob", "ratio=.1"]),
        ("--knob must be name=value, got 'rate'", ["a blue star", "--knob", "rate"]),
        ("--knob .* seed is an option, --seed", ["a blue star", "--knob", "seed=1"]),
        ("--set must be name=value", ["a blue star", "--set", "guidance scale=1"]),
        ("seed must be a whole number from 0", ["a blue star", "--seed", "-1"]),
        ("there is no file nowhere.txt", ["--prompts", "nowhere.txt"]),
        ("nowhere does not exist", ["a blue star", "--warm-start", "nowhere"]),
        ("reward must be one of .*got 'bogus'", ["a blue star", "--held-out", "bogus"]),
        ("stop_at must be a number, got nan", ["a blue star", "--stop-at", "nan"]),
        ("n must be a whole number", ["a blue star", "--algorithm", "best_of_n", "--knob", "n=2.5"]),
        ("eta must not be among the pipeline's arguments: ", ["a blue star", "--set", "eta=.5"]),
        ("takes no argument 'guidance'", ["a blue star", "--set", "guidance=5"]),
        ("cannot be made .*is no folder", ["a blue star", "--out", f"{__file__}/x"]),
        ("dtype must be float32, float16 or bfloat16, got 'int8'", ["a blue star", "--dtype", "int8"]),
        ("offload must be 'model', 'sequential' or None, got 'disk'", ["a blue star", "--offload", "disk"]),
        ("quantize must be '8bit', '4bit' or None, got '2bit'", ["a blue star", "--quantize", "2bit"]),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_wrong_arguments_get_one_sentence(message, arguments, dry):
    refused(message, "generate", *arguments, *dry)


def test_prompts_in_another_encoding_are_refused():
    Path("prompts.txt").write_bytes(b"two red circles \xff\n")
    refused("prompts.txt is not .*", "generate", "--prompts", "prompts.txt")


@pytest.mark.parametrize("budget", ["0.001s", "19"])
def test_dry_run_of_too_small_a_budget(budget):
    refused("budget must be at least", "generate", "a blue star", "--budget", budget, "--dry-run")


def test_terminal_codes_in_a_prompt_stay_text():
    assert "\x1b" not in refused(r"unknown word", "generate", "two red circles \x1b[31m", "--steps", "2")
    done = evosearch("generate", "\x1b[31mred", "\u202eblue", "--reward", "jpeg", *QUICK)
    assert "\N{REPLACEMENT CHARACTER}[31mred\n" in done.stdout and not {"\x1b", "\u202e"} & set(done.output)


def test_second_run_into_a_folder_is_refused_and_the_first_stays():
    evosearch("generate", "a blue star", *QUICK, "--out", "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    refused("run holds a run; name another", "generate", "a red star", *QUICK, "--out", "run")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_invalid_reward_ends_with_65(monkeypatch):
    monkeypatch.setattr("evosearch.rewards.jpeg.jpeg", lambda samples, prompts: torch.full((len(samples),), torch.nan))
    result = evosearch("generate", "a blue star", "--reward", "jpeg", *QUICK, code=65)
    assert "evosearch: the reward gave nothing finite for any of" in result.stderr
    assert manifest_of("runs/0001")["status"] == "invalid"


def test_full_disk_ends_with_74(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "media/plain.png")

    monkeypatch.setattr(store.media, "png", full)
    result = evosearch("generate", "a blue star", *QUICK, code=74)
    assert result.stderr.splitlines()[-1] == "evosearch: No space left on device: media/plain.png"


def test_defects_keep_their_traceback(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(es.run, "search", broken)
    result = CliRunner().invoke(cli.app, ["generate", "a blue star"])
    assert isinstance(result.exception, RuntimeError)


def test_what_python_objects_to_in_our_code_is_a_defect(monkeypatch):
    monkeypatch.setattr(sys.modules["evosearch.searches.best_of_n"], "whole_number", lambda *_: 1 + "1")
    result = CliRunner().invoke(cli.app, ["generate", "a blue star", "--algorithm", "best_of_n"])
    assert isinstance(result.exception, TypeError)


def test_ctrl_c_keeps_what_was_found(here):
    listens = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background is deaf
    )
    run = "import torch; torch.set_num_threads(1); from evosearch.cli import app; app()"
    command = [sys.executable, "-c", f"{listens}; {run}"]
    asked = ["generate", "a blue star", "--algorithm", "best_of_n", "--budget", "100000x", "--steps", "2"]
    with subprocess.Popen([*command, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log = here / "runs" / "0001" / "log.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and "generation" in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line][-4:] == [
        "evosearch: finishing the micro-batch at hand; once more to stop at once",
        "what was found so far is in runs/0001",
        "go on where it stopped by: evosearch resume runs/0001",
        "evosearch: interrupted",
    ]
    assert "Traceback" not in err
    manifest = manifest_of("runs/0001")
    assert manifest["status"] == "interrupted"
    assert (Path("runs/0001") / manifest["kept"][0]["file"]).is_file()


# list, version, help


def test_list_names_everything():
    out = evosearch("list").stdout
    for name in (
        *es.searches.__all__,
        *es.rewards.NAMES,
        *models.BUNDLED,
        *(family.name for family in models.FAMILIES),
    ):
        assert re.search(rf"^{re.escape(name)} +\S", out, re.MULTILINE)
    assert re.search(
        r"^best_of_n +Draw n samples and keep the best\.\n +noise space\n +NFE: n · steps\n +rewards: n\n"
        r" +/.*/searches/best_of_n\.py$",
        out,
        re.M,
    )
    assert "best_of_n" not in evosearch("list", "rewards").stdout


def test_the_page_of_searches_is_no_page_of_rewards():
    refused("--markdown writes the page of the searches, there is none of the rewards", "list", "rewards", "--markdown")


def test_the_picture_of_readme_is_of_pictures():
    refused("--model must make pictures, and shapes-video makes videos", "bench", "picture", "--model", "shapes-video")


def test_a_benchmark_that_is_done_runs_nothing_and_shows_its_table():
    facts = {"model": "shapes-diffusion", "dtype": "float32", "weights": fingerprint("shapes-diffusion")}
    found = {"rewards": [0.5] * 1000, "own": 0.9, "decoded": 0.8}
    rows = [asdict(cell) | facts | found for cell in saturation.all_cells("shapes-diffusion")]
    Path("cells-0-of-1.jsonl").write_text("\n".join(map(json.dumps, rows[:-1])) + "\n")
    shown = evosearch("bench", "saturation", "--out", ".", "--table").stdout
    assert shown.splitlines()[2] == "| 10 | 0.5000 | 0% | 100% | 100% |"
    Path("cells-0-of-1.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    done = evosearch("bench", "saturation", "--out", ".").stdout
    assert done.startswith("bill: 0 of 12 prompts are left, 0 NFE")
    assert len(Path("cells-0-of-1.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("command", ["compare", "saturation"])
def test_a_table_of_nothing_is_refused(command):
    refused("holds no results", "bench", command, "--out", "nowhere", "--table")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--against must be one of 'best-of-N', ", ["compare", "--against", "evosearch"]),
        ("reward must be one of .*got 'shape'", ["compare", "--reward", "shape"]),
        ("did you mean 'shapes-flow'", ["compare", "--model", "shapes-flo"]),
        ("--seeds must be NFE:seeds by commas, both above 0", ["compare", "--seeds", "0:1"]),
        ("dtype must be float32", ["compare", "--dtype", "int8"]),
        ("--times must be samples' worth by commas, such as .*got '10x'", ["searches", "--times", "10x"]),
        ("--search must be one of .*got 'evosarch'", ["searches", "--search", "evosarch"]),
        ("--search must be one of .*got 'reno'", ["searches", "--search", "reno", "--reward", "shapes"]),
        ("dtype must be float32", ["saturation", "--dtype", "int8"]),
        ("--part must be k/n", ["heritability", "--part", "2/2"]),
        ("did you mean 'shapes-diffusion'", ["overhead", "--model", "shape-diffusion"]),
        ("did you mean 'best_of_n'", ["overhead", "--algorithm", "best-of-n"]),
        ("--model must be one of SD 2.1, .*got foo", ["device", "--model", "foo"]),
    ],
)
def test_what_is_wrong_with_a_benchmark_is_said_before_its_bill(message, arguments):
    refused(message, "bench", *arguments)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_what_cannot_be_searched_is_refused_before_it_is_loaded(here, dry):
    folder = here / "ltx"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    refused(
        "LTX2Pipeline denoises two latents", "generate", "a red circle", "--model", folder, "--reward", "jpeg", *dry
    )


def test_version():
    assert evosearch("--version").stdout == f"evosearch {es.__version__}\n"


@pytest.mark.parametrize("command", [[], ["generate"], ["demo"], ["list"]])
def test_help_fits_a_screen(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = evosearch(*command, "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_help_needs_no_heavy_import():
    check = "import sys, evosearch.cli; sys.exit(bool({'torch', 'diffusers', 'PIL'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# demo


@pytest.fixture
def toy_demo(monkeypatch):
    """The demo on a toy model, for what does not depend on the model."""
    monkeypatch.setattr(demo.models, "load", lambda name: toy.sampler())
    monkeypatch.setattr(
        demo,
        "search",
        lambda pipe, prompt, reward, algorithm, budget, **kwargs: toy.found(
            prompt=prompt, algorithm=algorithm, budget=budget, **{"progress": False, **kwargs}
        ),
    )


@pytest.mark.parametrize("case", demo.CASES[: demo.QUICK], ids=lambda case: case[0])
def test_demo_compares_at_equal_cost(monkeypatch, case):
    monkeypatch.setattr(demo, "CASES", [case])
    out = evosearch("demo", "--budget", "100").stdout
    manifests = {method: manifest_of(f"evosearch-demo/00-{method}") for method in demo.METHODS}
    assert all(90 < m["cost"]["nfe"] <= 100 for m in manifests.values())
    assert len({m["plain"]["id"] for m in manifests.values()}) == 1
    for manifest in manifests.values():
        assert f"{manifest['kept'][0]['reward']:.3f}" in out
    page = Path("evosearch-demo/index.html").read_text()
    assert page.count("<img") == 3
    for link in re.findall('href="(.*?)"', page):
        assert (Path("evosearch-demo") / link).is_file()
    assert len(re.findall('href="', page)) == 2


def test_demo_replaces_a_former_demo_and_nothing_else(toy_demo):
    evosearch("demo", "--budget", "100")
    assert len(list(Path("evosearch-demo").glob("*/report.html"))) == 12
    (Path("evosearch-demo") / "mine.txt").write_text("mine")
    evosearch("demo", "--quick", "--budget", "100")
    assert len(list(Path("evosearch-demo").glob("*/report.html"))) == 6
    assert Path("evosearch-demo/index.html").read_text().count("<section>") == 3
    assert (Path("evosearch-demo") / "mine.txt").read_text() == "mine"


def test_demo_too_small_leaves_the_former_one(toy_demo):
    evosearch("demo", "--quick", "--budget", "100")
    refused("budget must be at least 20 NFE for best_of_n", "demo", "--budget", "19")
    refused("seed must be a whole number from 0", "demo", "--seed", "-1")
    assert len(list(Path("evosearch-demo").glob("*/report.html"))) == 6


def test_demo_refuses_a_folder_that_is_not_its_own(toy_demo):
    Path("photos/00-evosearch").mkdir(parents=True)
    refused("photos is none; name another", "demo", "--out", "photos")
    Path("file").write_text("mine")
    refused("file is none; name another", "demo", "--out", "file")


def test_interrupted_demo_shows_what_it_has(toy_demo, monkeypatch):
    whole_search, calls = demo.search, []

    def impatient(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole_search(*args, **kwargs)

    monkeypatch.setattr(demo, "search", impatient)
    result = evosearch("demo", "--budget", "100", code=130)
    assert "index.html" in result.stdout and "interrupted" in result.stderr
    assert Path("evosearch-demo/index.html").read_text().count("<section>") == 1


def test_demo_prompts_are_hard():
    from evosearch.shapes import held_out, parse

    assert len({prompt for _, prompt in demo.CASES}) == len(demo.CASES)
    assert {model for model, _ in demo.CASES[: demo.QUICK]} == set(models.BUNDLED) == set(demo.MODELS)
    for _, prompt in demo.CASES:
        scene = parse(prompt)
        assert scene.objects >= 3 and held_out(scene)


def test_a_judge_that_refuses_is_unavailable(monkeypatch):
    with judges.FakeJudge(lambda picture, attempt: (404, b"", {})) as server:
        monkeypatch.setenv("EVOSEARCH_JUDGE_URL", server.url)
        monkeypatch.setenv("EVOSEARCH_JUDGE_MODEL", "toy-judge")
        result = evosearch("generate", "two red circles", "--reward", "judge", *QUICK, code=69)
    assert "refuses calls, HTTP 404; check url and model" in result.stderr
    assert "Traceback" not in result.output and not list(Path().rglob("*.json"))


def test_what_a_judge_needs_is_said(monkeypatch):
    monkeypatch.delenv("EVOSEARCH_JUDGE_URL", raising=False)
    refused("in the environment as EVOSEARCH_JUDGE_URL", "generate", "two red circles", "--reward", "judge", *QUICK)
