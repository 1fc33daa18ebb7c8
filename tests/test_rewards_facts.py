"""What `evosearch list rewards` says of the rewards: terms, sizes, and whether they are ready on this machine."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from evosearch import cli, rewards
from evosearch.catalogue_rewards import facts_of
from evosearch.rewards import places

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LEARNED = [name for name in rewards.NAMES if facts_of(name).sources]
CLIP_L = "openai/clip-vit-large-patch14"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
BERT = "google-bert/bert-base-uncased"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of our own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "ours"))
    for name in ("EVOSEARCH_JUDGE_URL", "EVOSEARCH_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def cached(caches):
    """Put files into the hub's cache, as its client lays them out."""

    def cached(place, *files):
        folder = caches / "hub" / f"models--{place.replace('/', '--')}"
        for part in ("refs", "blobs", f"snapshots/{COMMIT}"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        for file in files:
            blob = folder / "blobs" / f"blob-of-{file.replace('/', '-')}"
            blob.touch()
            link = folder / "snapshots" / COMMIT / file
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(blob)
        return folder

    return cached


def shown() -> dict[str, dict[str, str]]:
    """Of each reward, what the lines of the form ``word: text`` say, and its purpose."""
    result = CliRunner().invoke(cli.app, ["list", "rewards"])
    assert result.exit_code == 0, result.output
    found = {}
    for line in result.stdout.splitlines():
        name, text = line[:20].strip(), line[20:]
        if name:
            current = found[name] = {"purpose": text}
        else:
            word, colon, rest = text.partition(": ")
            current[word if colon else "file"] = rest if colon else text
    return found


def test_every_reward_says_all_of_itself():
    found = shown()
    assert [*found] == [*rewards.NAMES, *rewards.COMBINATIONS]
    for name in rewards.NAMES:
        said = found[name]
        options = said.pop("options", "")
        made = getattr(import_module(f"evosearch.rewards.{name}"), rewards.NAMES[name])
        takes = inspect.signature(made).parameters if inspect.isclass(made) else ()
        assert options == (f"{name}({'=, '.join(takes)}=)" if takes else "")
        assert [*said] == ["purpose", "range", "licence", "needs", "download", "ready", "file"]
        assert all(said.values()) and said["file"].endswith(f"/rewards/{name}.py")
        assert re.match(r"(yes|no), \S", said["ready"])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("clip_score", "about 1.7 GB"),
        ("pick_score", "about 3.9 GB + 4 MB"),
        ("aesthetic", "about 1.7 GB + 4 MB"),
        ("image_reward", "about 1.8 GB + 1 MB"),
        ("hps", "about 3.9 GB + 4 MB"),
        ("hps_v3", "about 16.6 GB + 11 MB"),
        ("vqa_score", "about 16.6 GB"),
        ("unified_reward", "about 16.6 GB"),
        ("video_reward", "about 5.0 GB + 7 MB"),
        ("video_score2", "about 16.6 GB"),
    ],
)
def test_what_is_in_no_cache_is_to_be_downloaded(name, size):
    said = shown()[name]
    assert said["download"] == size
    assert said["ready"] == f"no, {size} to be downloaded"


@pytest.mark.parametrize(
    ("name", "ready"),
    [("shapes", "yes, has no weights"), ("jpeg", "yes, has no weights"), ("shapes_clip", "yes, weights bundled")],
)
def test_what_is_in_the_box_is_ready(name, ready):
    assert shown()[name]["ready"] == ready and shown()[name]["download"] == "none"


def test_what_goes_by_another_says_so():
    assert shown()["pyiqa"]["download"] == "by metric"
    assert shown()["per_frame"]["download"] == "of the reward that it is given"
    assert shown()["per_frame"]["ready"] == "yes, given a reward"


NEW = ["config.json", "model.safetensors", "tokenizer.json"]
OLD = ["config.json", "pytorch_model.bin.index.json", "vocab.json", "merges.txt"]
BLIP = ["ImageReward.pt", "med_config.json"]
ALIGN = ["checkpoint-11352/model.pth", "model_config.json"]
QWEN = ["config.json", "tokenizer_config.json", "tokenizer.json"]
SHARDS = ["model.safetensors.index.json", "vocab.json", "merges.txt"]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("clip_score", {CLIP_L: NEW}),
        ("clip_score", {CLIP_L: OLD}),
        ("pick_score", {"yuvalkirstain/PickScore_v1": NEW[:2], CLIP_H: ["tokenizer_config.json", *OLD[2:]]}),
        ("image_reward", {"THUDM/ImageReward": BLIP, BERT: ["config.json", "vocab.txt"]}),
        ("hps", {"xswu/HPSv2": ["HPS_v2.1_compressed.pt"], CLIP_H: ["config.json", "tokenizer.json"]}),
        ("vqa_score", {"Qwen/Qwen2.5-VL-7B-Instruct": [*QWEN[:2], *SHARDS]}),
        ("hps_v3", {"MizzenAI/HPSv3": ["HPSv3.safetensors"], "Qwen/Qwen2-VL-7B-Instruct": QWEN}),
        ("video_reward", {"KwaiVGI/VideoReward": ALIGN, "Qwen/Qwen2-VL-2B-Instruct": QWEN}),
        ("video_score2", {"TIGER-Lab/VideoScore2": [*QWEN[:2], *SHARDS]}),
    ],
)
def test_what_is_in_the_hubs_cache_is_ready_and_nothing_less(cached, name, places):
    assert not facts_of(name).state.startswith("yes")
    files = [cached(place, file) / "snapshots" / COMMIT / file for place, named in places.items() for file in named]
    assert shown()[name]["ready"] == "yes, found in the cache"
    for file in files:  # of each, a blob that was deleted leaves a link that leads nowhere
        blob = file.readlink()
        blob.unlink()
        assert facts_of(name).state.endswith("to be downloaded"), file
        blob.touch()
    assert facts_of(name).state == "yes, found in the cache"


def test_only_what_is_missing_is_to_be_downloaded(cached, caches):
    cached(CLIP_L, *NEW)
    assert shown()["aesthetic"]["ready"] == "no, about 4 MB to be downloaded"
    (source,) = (source for source in facts_of("aesthetic").sources if source.place.startswith("https:"))
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        places.locate(source.place, *source.files)
    head = places.kept_at(source.place)
    assert head.parent == caches / "ours" and head.name.endswith("-sac+logos+ava1-l14-linearMSE.pth")
    head.parent.mkdir()
    head.touch()
    assert shown()["aesthetic"]["ready"] == "yes, found in the cache"
    assert places.locate(source.place, *source.files) == head


def test_a_file_that_the_hub_is_known_not_to_have_is_not_there(cached):
    none = cached(CLIP_L, *NEW[:1]) / ".no_exist" / COMMIT
    none.mkdir(parents=True)
    (none / "model.safetensors").touch()
    assert places.kept(CLIP_L, "config.json")
    assert places.kept(CLIP_L, "model.safetensors") is None


def test_the_judge_is_ready_where_its_endpoint_is_named(monkeypatch):
    unset = "no, endpoint not configured: EVOSEARCH_JUDGE_URL and EVOSEARCH_JUDGE_MODEL not set"
    assert shown()["judge"]["ready"] == unset
    monkeypatch.setenv("EVOSEARCH_JUDGE_URL", "http://localhost:1/v1?key=secret")
    assert shown()["judge"]["ready"] == "no, endpoint not configured: EVOSEARCH_JUDGE_MODEL not set"
    monkeypatch.setenv("EVOSEARCH_JUDGE_MODEL", "some-model")
    ready = "yes, endpoint configured by EVOSEARCH_JUDGE_URL and EVOSEARCH_JUDGE_MODEL"
    assert shown()["judge"]["ready"] == ready


@pytest.mark.parametrize("name", rewards.NAMES)
def test_a_reward_loads_or_says_in_one_sentence_what_is_missing_and_how_to_get_it(name):
    facts = facts_of(name)
    if facts.package and importlib.util.find_spec(facts.package) is None:
        said = rf"needs the package {facts.package}: pip install {facts.package} \(.+\)$"
    elif facts.sources:
        place = re.escape(facts.sources[0].place)
        said = rf"of model '{place}' cannot be had: it is not in .*; check the network, or give the folder of a copy$"
    elif facts.variables:
        said = rf"must be given to a judge, or stand in the environment as {facts.variables[0]}$"
    elif facts.given or facts.package:
        said = rf"^{name} needs (a reward of pictures; give its name|the name of a metric), as in {name}:\w+"
    else:
        assert callable(rewards.load(name))
        return
    with pytest.raises(ValueError, match=said) as caught:
        rewards.load(name)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(cli.app, ["generate", "a red circle", "--reward", name, "--budget", "1x"])
    assert result.exit_code == 2 and result.stderr == f"evosearch: {caught.value}\n" and result.stdout == ""


@pytest.mark.parametrize("name", LEARNED)
def test_facts_agree_with_docstring_and_defaults(name):
    made = getattr(import_module(f"evosearch.rewards.{name}"), rewards.NAMES[name])
    facts = facts_of(name)
    defaults = [parameter.default for parameter in inspect.signature(made).parameters.values()]
    assert [source.place for source in facts.sources] == [d for d in defaults if isinstance(d, str) and "/" in d]
    doc = " ".join(made.__doc__.split())
    assert facts.sources[0].place in doc or facts.sources[0].place in defaults
    for licence in re.findall("MIT|Apache-2.0", facts.licence):
        assert f"{licence} licence" in doc
    for number in re.findall(r"\d\.\d+", facts.range):
        assert number in doc


def test_listing_makes_no_model():
    code = (
        "import sys; from evosearch.catalogue_rewards import lines; lines();"
        "sys.exit(' '.join({'transformers', 'diffusers'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
