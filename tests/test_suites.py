"""From a set of prompts to the scorers of its suite and back, by the command line."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import imageio_ffmpeg
import pytest
import typer
from PIL import Image
from promptsets import GENEVAL, VBENCH
from typer.testing import CliRunner

from evosearch import cli, models
from evosearch.suites import vbench

VBENCH_SET = [*json.loads(VBENCH), json.loads(VBENCH)[1] | {"dimension": ["color"]}]  # a text that comes twice
VBENCH2_SET = [
    {"caption": "A man is playing basketball.", "dimension": ["Diversity", "Human_Clothes"]},
    {"caption": "Long: " + "zoom in. " * 40, "dimension": ["Camera_Motion"]},
]


def evosearch(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def refused(message: str, *arguments) -> None:
    """One sentence on standard error, and nothing written."""
    before = contents()
    result = evosearch(*arguments, code=2)
    assert result.stdout == ""
    assert re.fullmatch(r"evosearch: [^\n]+\n", result.stderr), result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert contents() == before


def contents() -> dict:
    return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of the bundled models, tiny ones: two seeds of each set."""
    root = tmp_path_factory.mktemp("made")
    (root / "evaluation_metadata.jsonl").write_text(GENEVAL)
    (root / "VBench_full_info.json").write_text(json.dumps(VBENCH_SET))
    cheap = ["--algorithm", "best_of_n", "--reward", "jpeg", "--steps", "2", "--quiet", "--batch-size", "4"]
    patch = pytest.MonkeyPatch()
    patch.setattr(models, "load", functools.cache(models.load))
    try:
        for name, file, model, budgets in (
            ("pictures", "evaluation_metadata.jsonl", "shapes-diffusion", ("4x", "2x")),
            ("videos", "VBench_full_info.json", "shapes-video", ("3x", "2x")),
        ):
            for seed, budget in enumerate(budgets):
                out = root / f"{name}-{seed}"
                asked = ["--prompts", root / file, "--model", model, "--seed", seed, "--budget", budget, "--out", out]
                evosearch("generate", *asked, *cheap)
    finally:
        patch.undo()
    return root


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A folder with copies of those runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kept(folder: str) -> list[Path]:
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    return [Path(folder) / entry["file"] for entry in manifest["kept"]]


def edit(folder: str, change) -> None:
    path = Path(folder) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def entries_as(entries: list[dict], key: str) -> None:
    """Turn the runs of videos into runs of another set, the first ones of it."""
    for seed in (0, 1):
        for k, entry in enumerate(entries):
            origin = {"source": "set.json", "place": k, "of": len(entries), "entry": entry}
            edit(f"videos-{seed}/{k:04d}", lambda m: m["settings"].update(prompt=entry[key], prompt_set=origin))  # noqa: B023
        for k in range(len(entries), 3):
            shutil.rmtree(f"videos-{seed}/{k:04d}")


# As the scorers look for samples. Their code is not ours to copy; the rules are, from the files named in src.


def seen_by_geneval(folder: str) -> dict[str, tuple[dict, list[str]]]:
    """evaluate_images.py: numbered folders, metadata.jsonl as one JSON value, samples/<number>.png."""
    seen = {}
    for name in os.listdir(folder):
        inside = os.path.join(folder, name)
        if os.path.isdir(inside) and name.isdigit():
            with open(os.path.join(inside, "metadata.jsonl")) as file:
                metadata = json.load(file)
            images = os.listdir(os.path.join(inside, "samples"))
            seen[name] = metadata, sorted(image for image in images if re.match(r"\d+\.png", image))
    return seen


def seen_by_vbench(folder: str, info: list[dict], dimension: str) -> list[str]:
    """build_full_info_json of vbench: the ending of any file there, then five names a prompt."""
    names = os.listdir(folder)
    for ending in {Path(name).suffix for name in names}:
        wanted = [f"{e['prompt_en']}-{k}{ending}" for e in info if dimension in e["dimension"] for k in range(5)]
        assert all(Path(name).suffix == ending for name in names)
    return [name for name in wanted if name in names]


def seen_by_vbench2(root: str, info: list[dict], dimension: str) -> list[str]:
    """build_full_info_json of vbench2: raises for the first of 3 or 20 names that is not there."""
    folder = f"{root}/{dimension}"
    names = os.listdir(folder)
    wanted = [
        f"{e['caption'][:180]}-{k}.mp4"
        for e in info
        if dimension in e["dimension"]
        for k in range(20 if dimension == "Diversity" else 3)
    ]
    assert {*wanted} <= {*names}
    return wanted


# export


def test_geneval_finds_its_folders():
    told = evosearch("export", "geneval", "pictures-0", "--out", "laid/out")
    assert "12 samples of 3 prompts are in laid/out" in told.stdout
    seen = seen_by_geneval("laid/out")
    assert sorted(seen) == ["00000", "00001", "00002"]
    for k, line in enumerate(GENEVAL.splitlines()):
        metadata, images = seen[f"{k:05}"]
        assert metadata == json.loads(line)
        assert images == ["00000.png", "00001.png", "00002.png", "00003.png"]
        for image, best in zip(images, kept(f"pictures-0/{k:04d}"), strict=True):
            copy = Path(f"laid/out/{k:05}/samples/{image}")
            assert copy.read_bytes() == best.read_bytes()
            Image.open(copy).verify()
    assert [path.name for path in Path("laid").iterdir()] == ["out"]
    assert os.stat("laid/out").st_mode & 0o777 == os.stat("laid").st_mode & 0o777


@pytest.mark.parametrize("runs", [["pictures-0", "pictures-1"], ["pictures-1", "pictures-0"]])
def test_the_best_of_every_run_come_first(runs):
    evosearch("export", "geneval", *runs, "--out", "out", "--samples", "6")
    first, second = kept("pictures-0/0001"), kept("pictures-1/0001")
    expected = [first[0], second[0], first[1], second[1], first[2], first[3]]
    laid = [path.read_bytes() for path in sorted(Path("out/00001/samples").iterdir())]
    assert laid == [path.read_bytes() for path in expected]
    assert len({*laid}) == 6


def test_fewer_samples_if_asked():
    evosearch("export", "geneval", "pictures-0", "--out", "out", "--samples", "1")
    assert [images for _, images in seen_by_geneval("out").values()] == [["00000.png"]] * 3


def test_a_single_prompt_is_a_run_of_its_own():
    evosearch("export", "geneval", "pictures-0/0002", "--out", "out")
    assert list(seen_by_geneval("out")) == ["00002"]
    evosearch("export", "geneval", "pictures-0/0002", "pictures-0", "--out", "again")  # a folder counts once
    laid = [path.read_bytes() for path in sorted(Path("again/00002/samples").iterdir())]
    assert laid == [path.read_bytes() for path in kept("pictures-0/0002")]


def seen_by_static_filter(folder: str, info: list[dict]) -> dict[str, int]:
    """static_filter.py: all videos of prompts whose dimensions have temporal_flickering, whatever their number."""
    prompts = [entry["prompt_en"] for entry in info if "temporal_flickering" in entry["dimension"]]
    named = [name.rpartition("-")[0] for name in os.listdir(folder)]
    return {prompt: named.count(prompt) for prompt in prompts}


def keep_more(folder: str, times: int) -> None:
    edit(folder, lambda m: m.update(kept=m["kept"] * times))


def test_vbench_filters_still_videos_out_of_25():
    refused("vbench is to have 25 samples of a prompt, but of 'In a still .* the runs keep 5; give --samples, or more",
            "export", "vbench", "videos-0", "videos-1", "--out", "out")  # fmt: skip
    keep_more("videos-0/0000", 5)  # 15, as many as one run has at the most, but one
    keep_more("videos-1/0000", 7)
    for more, still in (([], 25), (["--samples", "25"], 25), (["--samples", "12"], 12)):
        evosearch("export", "vbench", "videos-0", "videos-1", "--out", "out", *more)
        assert seen_by_static_filter("out", VBENCH_SET) == {"In a still frame, a stop sign": still}
        assert {f"In a still frame, a stop sign-{k}.mp4" for k in range(still)} <= {*os.listdir("out")}
        assert len(os.listdir("out")) == still + 5  # of other prompts, five are looked at
        shutil.rmtree("out")
    refused("--samples must be 1 to 25 for vbench, got 26",
            "export", "vbench", "videos-0", "videos-1", "--out", "out", "--samples", "26")  # fmt: skip


def test_vbench_finds_its_videos():
    told = evosearch("export", "vbench", "videos-0", "videos-1", "--out", "out", "--samples", "5")
    assert "10 samples of 3 prompts" in told.stdout  # two prompts are the same, and share their videos
    five = [f"a bird and a cat-{k}.mp4" for k in range(5)]
    assert seen_by_vbench("out", VBENCH_SET, "multiple_objects") == five
    assert seen_by_vbench("out", VBENCH_SET, "color") == five
    still = seen_by_vbench("out", VBENCH_SET, "temporal_flickering")
    assert still == [f"In a still frame, a stop sign-{k}.mp4" for k in range(5)]
    assert sorted(os.listdir("out")) == sorted(five + still)
    for name in still:
        assert imageio_ffmpeg.count_frames_and_secs(str(Path("out") / name))[0] > 1


def test_vbench_names_follow_the_text_whatever_it_is():
    texts = ['a "clock": 5 o\'clock?', "..", "a façade – 100% <b>", " spaces "]
    for text in texts:
        edit("videos-0/0000", lambda m: m["settings"].update(prompt=text))  # noqa: B023
        evosearch("export", "vbench", "videos-0/0000", "--samples", "1", "--out", "out")
        assert os.listdir("out") == [f"{text}-0.mp4"]
        shutil.rmtree("out")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("../../outside", "it holds '/'"),
        ("/tmp/outside", "it holds '/'"),
        ("a\\b", "it holds '.+'"),
        ("two\nlines", r"it holds '\\n'"),
        ("a\0b", r"it holds '\\x00'"),
        ("half \udc80", r"it holds '\\udc80'"),
        ("long " * 60, "it has more than 255 bytes"),
        ("猫" * 90, "it has more than 255 bytes"),
    ],
)
def test_what_cannot_be_a_file_name_is_refused(text, why):
    edit("videos-0/0001", lambda m: m["settings"].update(prompt=text))
    refused(rf"videos-0/0001 cannot name a file, .*: {why}; leave its run out",
            "export", "vbench", "videos-0", "--samples", "1", "--out", "out")  # fmt: skip


def test_vbench2_finds_its_videos(monkeypatch):
    monkeypatch.setattr(vbench, "_videos", lambda dimension: 5 if dimension == "Diversity" else 3)
    entries_as(VBENCH2_SET, "caption")
    assert "11 samples of 2 prompts" in evosearch("export", "vbench2", "videos-0", "videos-1", "--out", "out").stdout
    assert sorted(os.listdir("out")) == ["Camera_Motion", "Diversity", "Human_Clothes"]
    assert sorted(os.listdir("out/Diversity")) == [f"A man is playing basketball.-{k}.mp4" for k in range(5)]
    for dimension in ("Human_Clothes", "Camera_Motion"):
        assert sorted(os.listdir(f"out/{dimension}")) == seen_by_vbench2("out", VBENCH2_SET, dimension)
    assert Path("out/Diversity/A man is playing basketball.-2.mp4").read_bytes() == \
        Path("out/Human_Clothes/A man is playing basketball.-2.mp4").read_bytes()  # fmt: skip


def test_vbench2_needs_all_its_videos():
    entries_as(VBENCH2_SET, "caption")
    refused("vbench2 is to have 20 samples of a prompt, .* the runs keep 5; give more runs",
            "export", "vbench2", "videos-0", "videos-1", "--out", "out")  # fmt: skip
    refused("--samples must be left out for vbench2", "export", "vbench2", "videos-0", "--out", "out", "--samples", "3")


def test_vbench2_refuses_two_prompts_of_one_name():
    start = "x" * 180
    entries_as([{"prompt_en": start + end, "dimension": ["Mechanics"]} for end in "ab"], "prompt_en")
    refused("one place Mechanics/x+-0.mp4 for two prompts",
            "export", "vbench2", "videos-0", "videos-1", "--out", "out")  # fmt: skip


@pytest.mark.parametrize("dimension", [None, [], "Mechanics", ["../outside"], ["mechanics"], [3]])
def test_vbench2_refuses_other_dimensions(dimension):
    entries_as([{"prompt_en": "a cat", "dimension": dimension}], "prompt_en")
    refused("vbench2 must know the dimensions .* names", "export", "vbench2", "videos-0", "--out", "out")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("keep 3; give --samples, or more runs", ["vbench", "videos-0", "--out", "out"]),
        ("--samples must be 1 to 5 for vbench, got 6", ["vbench", "videos-0/0001", "--out", "out", "--samples", "6"]),
        ("--samples must be 1 to .* got 0", ["geneval", "pictures-0", "--out", "out", "--samples", "0"]),
        ("vbench scores videos, but .*png is none", ["vbench", "pictures-0", "--out", "out", "--samples", "1"]),
        ("geneval scores pictures, but .*mp4 is none", ["geneval", "videos-0", "--out", "out", "--samples", "1"]),
        ("nowhere does not exist", ["geneval", "nowhere", "--out", "out"]),
        ("media holds no manifest.json", ["geneval", "pictures-0/0000/media", "--out", "out"]),
        ("--out must be new or empty, but pictures-1 holds files", ["geneval", "pictures-0", "--out", "pictures-1"]),
    ],
)
def test_export_that_cannot_be(message, arguments):
    refused(message, "export", *arguments)


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.pop("prompt_set"),
        lambda settings: settings["prompt_set"].update(place=-1),
        lambda settings: settings["prompt_set"]["entry"].pop("tag"),
        lambda settings: settings["prompt_set"]["entry"].pop("include"),
    ],
)
def test_geneval_needs_its_metadata(change):
    edit("pictures-0/0001", lambda m: change(m["settings"]))
    refused("but pictures-0/0001 says nothing of them; generate with --prompts",
            "export", "geneval", "pictures-0", "--out", "out")  # fmt: skip


def test_two_sets_of_pictures_do_not_mix():
    edit("pictures-1/0001", lambda m: m["settings"].update(prompt="another"))
    refused("one place 00001/samples/00000.png for two prompts, .*; export one at a time",
            "export", "geneval", "pictures-0", "pictures-1", "--out", "out", "--samples", "1")  # fmt: skip


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("is damaged", lambda m: m.pop("settings")),
        ("is damaged", lambda m: m["settings"].update(prompt=3)),
        ("is damaged", lambda m: m["settings"]["prompt_set"].update(place="../../outside")),
        ("is damaged", lambda m: m["settings"]["prompt_set"].update(new=1)),
        ("is damaged", lambda m: m.update(kept=[3])),
        ("is not in its folder", lambda m: m["kept"][0].update(file="../0001/manifest.json")),
        ("is not in its folder", lambda m: m["kept"][0].update(file="/etc/passwd")),
        ("media/none.png is gone", lambda m: m["kept"][0].update(file="media/none.png")),
        (r"kept none \(invalid\)", lambda m: m.update(kept=[], status="invalid")),
    ],
)
def test_damaged_runs_are_refused(message, change):
    edit("pictures-0/0000", change)
    refused(message, "export", "geneval", "pictures-0", "--out", "out")


def test_what_is_not_whole_is_told():
    shutil.rmtree("pictures-0/0002")
    edit("pictures-0/0001", lambda m: m.update(status="interrupted"))
    told = evosearch("export", "geneval", "pictures-0", "--out", "out").stderr
    assert "note: 1 prompts of evaluation_metadata.jsonl are not in these runs\n" in told
    assert "note: 1 prompts were not searched to the end\n" in told


def test_export_is_there_whole_or_not_at_all(monkeypatch):
    copied = shutil.copyfile
    calls = []

    def filling(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise OSError(28, "No space left on device", str(target))
        return copied(source, target)

    monkeypatch.setattr(shutil, "copyfile", filling)
    before = contents()
    assert "No space left" in evosearch("export", "geneval", "pictures-0", "--out", "out", code=74).stderr
    assert contents() == before


# import-scores


def geneval_results(folder: str, correct: list[bool]) -> list[dict]:
    """Lines as evaluate_images.py writes them."""
    rows = []
    for name, (metadata, images) in sorted(seen_by_geneval(folder).items()):
        for image in images:
            good = correct[len(rows)]
            rows.append({"filename": f"/data/{folder}/{name}/samples/{image}", "tag": metadata["tag"],
                         "prompt": metadata["prompt"], "correct": good, "reason": "" if good else "expected more",
                         "metadata": json.dumps(metadata), "details": "{}"})  # fmt: skip
    return rows


CORRECT = [True, True, False, True, False, False, False, False, True, False, False, False]


def lines_of(rows: list[dict]) -> str:
    return "".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows)  # as pandas escapes


def test_geneval_scores_come_back():
    evosearch("export", "geneval", "pictures-0", "--out", "out")
    rows = geneval_results("out", CORRECT)
    Path("results.jsonl").write_text(lines_of(rows[::-1]))  # in the order that the system lists folders
    told = evosearch("import-scores", "geneval", "pictures-0", "results.jsonl").stdout
    # As summary_scores.py has it: 3/4, 0/4 and 1/4 by task; 4 of 12 images; 2 of 3 prompts with an image that is right.
    expected = {"single_object": 0.75, "counting": 0, "position": 0.25, "correct images": 1 / 3,
                "correct prompts": 2 / 3, "overall": 1 / 3}  # fmt: skip
    shown = dict(re.findall(r"^(\S.*?)  +(\d\.\d{4})$", told, re.MULTILINE))
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(expected, abs=1e-4)
    stored = json.loads(Path("pictures-0/scores.json").read_text())
    assert stored["geneval"]["sums"] == pytest.approx(expected)
    assert stored["geneval"]["runs"] == ["pictures-0"]
    for k in range(3):
        samples = json.loads(Path(f"pictures-0/{k:04d}/scores.json").read_text())["geneval"]["samples"]
        files = [str(path.relative_to(f"pictures-0/{k:04d}")) for path in kept(f"pictures-0/{k:04d}")]
        assert [samples[file]["correct"] for file in files] == CORRECT[4 * k : 4 * k + 4]
        assert samples[files[1]]["reason"] == ("" if CORRECT[4 * k + 1] else "expected more")


def test_scores_of_several_runs_go_to_each():
    runs = ["pictures-1", "pictures-0"]
    evosearch("export", "geneval", *runs, "--out", "out", "--samples", "2")
    Path("results.jsonl").write_text(lines_of(geneval_results("out", [True, False] * 3)))
    evosearch("import-scores", "geneval", *runs, "results.jsonl")
    for run, right in (("pictures-0", True), ("pictures-1", False)):
        best = str(kept(f"{run}/0000")[0].relative_to(f"{run}/0000"))
        samples = json.loads(Path(f"{run}/0000/scores.json").read_text())["geneval"]["samples"]
        assert samples == {best: {"correct": right, "reason": "" if right else "expected more"}}
        assert json.loads(Path(f"{run}/scores.json").read_text())["geneval"]["runs"] == ["pictures-0", "pictures-1"]


def vbench_results(folder: str, dimension: str, score: float, values: dict[str, float]) -> None:
    """A file as VBench.evaluate saves it."""
    videos = [{"video_path": f"{folder}/{name}", "video_results": value} for name, value in values.items()]
    Path(f"{dimension}_eval_results.json").write_text(json.dumps({dimension: [score, videos]}, indent=4))


def test_vbench_scores_add_up():
    runs = ["videos-0", "videos-1"]
    evosearch("export", "vbench", *runs, "--out", "out", "--samples", "5")
    names = seen_by_vbench("out", VBENCH_SET, "multiple_objects")
    quality = dict(zip(vbench._QUALITY, (0.95, 0.96, 0.98, 0.97, 0.6, 0.61, 0.65), strict=True))
    semantic = dict(zip(vbench._SEMANTIC, (0.9, 0.55, 0.95, 0.85, 0.7, 0.5, 0.24, 0.25, 0.27), strict=True))
    values = {name: bool(k % 2) for k, name in enumerate(names)}
    for dimension, score in (quality | semantic).items():
        vbench_results("/mnt/out", dimension, score, values)
        told = evosearch("import-scores", "vbench", *runs, f"{dimension}_eval_results.json").stdout
    # The published weights and ranges, worked out by hand to four places.
    shown = dict(re.findall(r"^(\S+)  +(\d\.\d{4})$", told, re.MULTILINE))
    assert shown["object_class"] == "0.9000"
    scaled = [0.941438, 0.945836, 0.946048, 0.905660, 0.61, 0.65]
    high = (sum(scaled) + 0.5 * 0.6) / 6.5
    low = (0.9 + 0.55 + 0.95 + 0.85 + 0.7 + 0.608125 + 0.840126 + 0.686813 + 0.741758) / 9
    assert float(shown["quality"]) == pytest.approx(high, abs=1e-4)
    assert float(shown["semantic"]) == pytest.approx(low, abs=1e-4)
    assert float(shown["total"]) == pytest.approx(0.8 * high + 0.2 * low, abs=1e-4)
    samples = json.loads(Path("videos-1/0001/scores.json").read_text())["vbench"]["samples"]
    first = str(kept("videos-1/0001")[0].relative_to("videos-1/0001"))  # the second of all: the best of the second run
    assert samples[first] == dict.fromkeys(quality | semantic, 1.0)
    assert not Path("videos-1/0002/scores.json").exists()  # the same text: the first of the two was scored


def test_vbench_totals_wait_for_all_dimensions():
    vbench_results("out", "color", 0.85, {"a bird and a cat-0.mp4": 0.5})
    told = evosearch("import-scores", "vbench", "videos-0", "color_eval_results.json").stdout
    assert told.startswith("color  0.8500\n\nscores of 1 samples")


def test_filtered_videos_are_not_taken_for_those_of_the_same_name():
    vbench_results("filter_results/filtered_videos", "temporal_flickering", 0.98, {"a bird and a cat-0.mp4": 0.5})
    told = evosearch("import-scores", "vbench", "videos-0", "temporal_flickering_eval_results.json").stdout
    assert told.startswith("temporal_flickering  0.9800\n\nscores of 0 samples")
    assert not list(Path("videos-0").glob("*/scores.json"))


def test_vbench2_scores_add_up():
    entries_as(VBENCH2_SET, "caption")
    names = {
        "Human_Clothes": "A man is playing basketball.-1.mp4",
        "Camera_Motion": f"{VBENCH2_SET[1]['caption'][:180]}-0.mp4",
    }
    told = ""
    for group in vbench._GROUPS.values():
        for dimension in group:
            values = {names[dimension]: 1} if dimension in names else {}
            vbench_results(f"vbench2_videos/{dimension}", dimension, 0.25 if dimension == "Diversity" else 0.5, values)
            told = evosearch("import-scores", "vbench2", "videos-0", f"{dimension}_eval_results.json").stdout
    shown = dict(re.findall(r"^(\S.*?)  +(\d\.\d{4})$", told, re.MULTILINE))
    assert (shown["creativity"], shown["physics"], shown["total"]) == ("0.3750", "0.5000", "0.4750")
    samples = json.loads(Path("videos-0/0000/scores.json").read_text())["vbench2"]["samples"]
    assert samples == {str(kept("videos-0/0000")[1].relative_to("videos-0/0000")): {"Human_Clothes": 1.0}}


def test_scores_of_another_suite_stay():
    (Path("pictures-0") / "0000" / "scores.json").write_text('{"mine": {"samples": {"a": {"b": 1}}}}')
    evosearch("export", "geneval", "pictures-0", "--out", "out")
    Path("results.jsonl").write_text(lines_of(geneval_results("out", CORRECT)))
    evosearch("import-scores", "geneval", "pictures-0", "results.jsonl")
    stored = json.loads(Path("pictures-0/0000/scores.json").read_text())
    assert stored["mine"] == {"samples": {"a": {"b": 1}}} and len(stored["geneval"]["samples"]) == 4


def test_scores_that_are_no_number_are_null():
    Path("r.json").write_text('{"color": [NaN, [{"video_path": "o/a bird and a cat-0.mp4", "video_results": NaN}]]}')
    evosearch("import-scores", "vbench", "videos-0", "r.json")
    assert json.loads(Path("videos-0/scores.json").read_text())["vbench"]["sums"] == {"color": None}
    vbench_results("o", "scene", 0.5, {})
    assert evosearch("import-scores", "vbench", "videos-0", "scene_eval_results.json").stdout.startswith(
        "scene  0.5000\n"
    )


GOOD = {"filename": "o/00000/samples/00000.png", "tag": "single_object", "prompt": "a photo of a bench",
        "correct": True, "reason": "", "metadata": "{}"}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "suite", "content"),
    [
        ("holds no scores", "geneval", b"\n"),
        ("line 1: expected an object with filename", "geneval", b"\xff\xfe"),
        ("line 1: expected an object with filename", "geneval", b'{"color": [0.5, []]}'),
        ("line 2: expected an object with filename", "geneval", json.dumps(GOOD).encode() + b"\n{"),
        ("line 1: expected an object", "geneval", json.dumps(GOOD | {"correct": "yes"}).encode()),
        ("line 1: expected an object", "geneval", b"[" * 200_000),
        ("as 'a photo of a cat', but in these runs that is 'a photo of a bench'", "geneval",
         json.dumps(GOOD | {"prompt": "a photo of a cat"}).encode()),
        ("speaks of 00007/samples/00000.png, which is none of these", "geneval",
         json.dumps(GOOD | {"filename": "o/00007/samples/00000.png"}).encode()),
        ("speaks of 00000/samples/00009.png, which is none of these", "geneval",
         json.dumps(GOOD | {"filename": "o/00000/samples/00009.png"}).encode()),
        ("must be an eval_results.json of VBench", "vbench", b"\xff"),
        ("must be an eval_results.json of VBench", "vbench", b"[]"),
        ("must be an eval_results.json of VBench", "vbench", b"{}"),
        ("must be an eval_results.json of VBench", "vbench", b'{"a":' * 200_000),
        ("expected dimensions out of .*got 'Mechanics'", "vbench", b'{"Mechanics": [0.5, []]}'),
        ("expected dimensions out of .*got 'color'", "vbench2", b'{"color": [0.5, []]}'),
        (r"color: expected \[score, ", "vbench", b'{"color": 0.5}'),
        (r"color: expected \[score, ", "vbench", b'{"color": ["much", []]}'),
        (r"color: expected \[score, ", "vbench", b'{"color": ["0.5", []]}'),
        (r"color: expected \[score, ", "vbench", b'{"color": [0.5, [{"video_path": "a"}]]}'),
        (r"color: expected \[score, ", "vbench", b'{"color": [0.5, [{"video_path": 3, "video_results": 1}]]}'),
        ("speaks of a cat-0.mp4, which is none of these", "vbench",
         b'{"color": [0.5, [{"video_path": "../a cat-0.mp4", "video_results": 1}]]}'),
    ],
)  # fmt: skip
def test_result_files_that_are_none(message, suite, content):
    entries_as([{"prompt_en": "a cat on a mat", "dimension": ["Mechanics"]}], "prompt_en")
    Path("results").write_bytes(content)
    refused(message, "import-scores", suite, "pictures-0" if suite == "geneval" else "videos-0", "results")


def test_there_must_be_a_result_file():
    refused("there is no file nowhere", "import-scores", "geneval", "pictures-0", "nowhere")


@pytest.mark.parametrize("content", ["{", "[]", '{"geneval": 3}', '{"geneval": {"samples": 3}}'])
def test_damaged_scores_are_not_overwritten(content):
    Path("results").write_text(json.dumps(GOOD))
    Path("pictures-0/0000/scores.json").write_text(content)
    refused("pictures-0/0000/scores.json is damaged", "import-scores", "geneval", "pictures-0", "results")


# the commands


@pytest.mark.parametrize("command", ["export", "import-scores"])
def test_help_fits_a_screen(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = evosearch(command, "--help").stdout.splitlines()
    assert 10 < len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_commands_of_the_page_are_ours():
    page = (Path(__file__).parents[1] / "docs" / "prompt-sets.md").read_text().replace("\\\n", "")
    lines = re.findall(r"^ *evosearch (.+)$", page, re.MULTILINE)
    assert len(lines) > 10
    commands = typer.main.get_command(cli.app).commands
    for line in lines:
        name, *arguments = shlex.split(line)
        commands[name].make_context(name, arguments)  # reads them, and starts nothing
