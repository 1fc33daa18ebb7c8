"""Sets of prompts: each published layout, and files as people have them."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import toy
from promptsets import BILINGUAL, COMPBENCH, DRAWBENCH, GENEVAL, VBENCH, VBENCH2, VBENCH2_ONCE

from evosearch.prompts import read


def saved(folder, content, name="set"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PUBLISHED = {
    "DrawBench, quoted": ('"Prompts","Category"\n"A red colored car.","Colors"\n', ["A red colored car."]),
    "DrawBench": (DRAWBENCH, ["A red colored car.", "A pear cut into seven pieces, arranged in a ring."]),
    "GenEval": (GENEVAL, ["a photo of a bench", "a photo of two clocks", "a photo of a dog right of a tv"]),
    "T2I-CompBench": (COMPBENCH, COMPBENCH.splitlines()),
    "VBench": (VBENCH, ["In a still frame, a stop sign", "a bird and a cat"]),
    "VBench-2.0": (VBENCH2, ["Garden, zoom in."]),
    "VBench-2.0, once": (VBENCH2_ONCE, ["A man is playing basketball.", "Garden, zoom in."]),
}


@pytest.mark.parametrize("ending", ["", ".txt"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_layout_is_told_by_the_content(tmp_path, name, ending):
    content, texts = PUBLISHED[name]
    prompts = read(saved(tmp_path, content, f"set{ending}"))
    assert prompts == texts
    assert [prompt.place for prompt in prompts] == list(range(len(texts)))
    assert {prompt.of for prompt in prompts} == {len(texts)}
    assert {prompt.source for prompt in prompts} == {f"set{ending}"}


def test_prompt_keeps_what_its_file_says(tmp_path):
    assert [p.entry["Category"] for p in read(saved(tmp_path, DRAWBENCH))] == ["Colors", "Counting"]
    assert [p.entry for p in read(saved(tmp_path, GENEVAL))] == [json.loads(line) for line in GENEVAL.splitlines()]
    assert [p.entry for p in read(saved(tmp_path, VBENCH))] == json.loads(VBENCH)
    assert [p.entry for p in read(saved(tmp_path, VBENCH2_ONCE))] == list(json.loads(VBENCH2_ONCE).values())
    assert [p.entry for p in read(saved(tmp_path, COMPBENCH))] == [{}, {}]


def test_sets_in_two_languages_are_read_in_english(tmp_path):
    (prompt,) = read(saved(tmp_path, BILINGUAL, "videogen_eval.csv"))
    assert prompt == "A cat, in the rain."
    assert prompt.entry["prompt_zh"] == "雨中的猫。"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("prompt\na red circle\na blue star\n", "a.csv"),
        ("text,seed\na red circle,1\na blue star,2\n", "a.csv"),
        ('["a red circle", "a blue star"]', "a.json"),
        ('{"prompt": "a red circle"}\n{"prompt": "a blue star"}\n', "a.json"),  # an object a line, under another name
        ('{"Prompt": "a red circle"}\n\n{"PROMPT": "a blue star"}', "a.jsonl"),
        ('"a red circle"\n"a blue star"\n', "a.jsonl"),
    ],
)
def test_own_sets(tmp_path, content, name):
    assert read(saved(tmp_path, content, name)) == ["a red circle", "a blue star"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffa red circle\na blue star\n".encode(),  # as Windows' editors save it
        b"a red circle\r\na blue star\r\n",
        b"a red circle\ra blue star",
        b"\n\n  a red circle \n\t\na blue star\n\n",
    ],
    ids=["BOM", "CRLF", "CR", "empty lines"],
)
def test_lines_as_editors_save_them(tmp_path, content):
    assert read(saved(tmp_path, content)) == ["a red circle", "a blue star"]


def test_csv_as_spreadsheets_save_it(tmp_path):
    content = "\ufeff" + DRAWBENCH.replace("\n", "\r\n") + '\r\n,\r\n"A sign, ""Hello"".",Text\r\n'
    prompts = read(saved(tmp_path, content, "a.csv"))
    assert prompts[2] == 'A sign, "Hello".'
    assert prompts[2].place == 2


def test_line_ends_within_quotes_and_strings_stay(tmp_path):
    assert read(saved(tmp_path, 'prompt,n\n"two\nlines",1\n', "a.csv")) == ["two\nlines"]
    assert read(saved(tmp_path, '{"prompt": "one\u2028line"}\n{"prompt": "b"}\n', "a.jsonl")) == ["one\u2028line", "b"]


@pytest.mark.parametrize(
    "line", ['"quoted", and on', "[a] cat", "{red} star", "prompts, many of them", "a, b\nc, d, e"]
)
def test_what_looks_like_another_format_is_text(tmp_path, line):
    assert read(saved(tmp_path, line, "a.txt")) == line.split("\n")


def test_what_comes_twice_stays_twice(tmp_path):
    prompts = read(saved(tmp_path, "a star\na circle\na star\n"))
    assert prompts == ["a star", "a circle", "a star"]
    assert [prompt.place for prompt in prompts] == [0, 1, 2]


HOSTILE = {
    "empty": (b"", "a.txt", "is empty"),
    "blank": (b"\xef\xbb\xbf \r\n\r\n", "a.csv", "is empty"),
    "no prompts": (b"[]", "a.json", "is empty"),
    "latin-1": (b"a star\na caf\xe9\n", "a.txt", r"UTF-8, but .*a.txt is not \(.* in line 2\); save it as UTF-8"),
    "UTF-16": ("prompt\na star\n".encode("utf-16"), "a.csv", "UTF-8, but .* is not"),
    "NUL": (b"a star\na \0 star\n", "a.txt", r"is not \(NUL in line 2\)"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a.txt", "UTF-8, but .* is not"),
    "a spreadsheet": (b"PK\3\4" + bytes(range(256)), "a.XLSX", "a.XLSX is a spreadsheet; export it as csv, in UTF-8$"),
    "no such column": (b"id,words\n1,a star\n", "a.csv", "line 2: expected one of prompt_en, .* got id, words"),
    "no such key": (b'{"words": "a star"}', "a.jsonl", "entry 1: expected one of prompt_en, .* got words"),
    "a comma without quotes": (
        b"prompt,tag\na red, big star,x\n",
        "a.csv",
        r"line 2: expected 2 cells .*, got 3: a red",
    ),
    "a row cut short": (b"prompt,tag\na star\n", "a.csv", "line 2: expected 2 cells"),
    "an open quote": (b'prompt,tag\n"a star,x\nb,y\n', "a.csv", "line 3: expected CSV, got unexpected end of data"),
    "an empty cell": (b"prompt,tag\n ,x\n", "a.csv", "line 2: expected a prompt, got ' '"),
    "JSON cut short": (b'[{"prompt": "a star"},\n{"prom', "a.json", "line 2: expected JSON, or an object a line"),
    "a line cut short": (b'{"prompt": "a star"}\n{"prom', "a.jsonl", "line 2: expected a JSON object"),
    "a number": (b'{"prompt": "a star"}\n{"prompt": 3}', "a.jsonl", "line 2: expected a prompt, got 3"),
    "a list": (b'{"prompt": ["a star"]}\n', "a.jsonl", "entry 1: expected a prompt, got "),
    "a number alone": (b"[1, 2]", "a.json", "entry 1: expected a prompt, got 1"),
    "text among objects": (b'[{"prompt": "a star"}, "b"]', "a.json", "entry 2: expected an object with 'prompt'"),
    "another key": (
        b'[{"prompt": "a star"}, {"text": "b"}]',
        "a.json",
        "entry 2: expected 'prompt', as before, got text",
    ),
    "half a character": (b'{"prompt": "a \\ud800 star"}', "a.jsonl", "whole characters, got 'a .ud800 star'"),
    "depth": (b"[" * 200_000, "a.json", "line 1: expected a list of prompts, got lists within lists"),
    "a huge number": (b'[{"prompt": "a", "n": ' + b"9" * 5000 + b"}]", "a.json", "line 1: expected JSON"),
    "a huge cell": (b'prompt,tag\n"' + b"a" * 200_000 + b'",x\n', "a.csv", "line 2: expected CSV, got field larger"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, name):
    content, file, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message) as caught:
        read(saved(tmp_path, content, file))
    assert file in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.txt", "there is no file nowhere.txt"),
        ("prompts/nowhere.csv", "there is no file prompts/nowhere.csv"),  # not a dataset of this name
        ("nowhere", "there is no file nowhere"),
        ("a/b/c", "there is no file a/b/c"),
        (".", r"but \. is no file"),
        ("hf://models/a/b", "must be hf://datasets/owner/dataset/file, got 'hf://models/a/b'"),
    ],
)
def test_what_is_no_file(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(source)


@pytest.mark.parametrize("source", ["owner/dataset", "hf://datasets/owner/dataset/set.csv"])
def test_without_network_a_dataset_cannot_be_had(source):
    with pytest.raises(
        ValueError, match=r"^prompts owner/dataset cannot be had from the hub \([^\n]*, or give a file$"
    ):
        read(source)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one dataset."""
    asked = []
    files = ["README.md", "Draw Bench.csv", "data/train.parquet"]

    def download(repo, file, *, repo_type, revision):
        asked.append((repo, file, repo_type, revision))
        return str(saved(tmp_path, DRAWBENCH, Path(file).name))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo, *, repo_type, revision: files)
    return asked, files


def test_a_dataset_by_its_id(hub):
    asked, files = hub
    assert read("owner/dataset")[0] == "A red colored car."
    assert read("hf://datasets/owner/dataset")[0].source == "Draw Bench.csv"
    assert asked == [("owner/dataset", "Draw Bench.csv", "dataset", None)] * 2
    files.append("more.jsonl")
    with pytest.raises(ValueError, match=r"as hf://datasets/owner/dataset/file, since it has .*Draw Bench.csv, more"):
        read("owner/dataset")
    files[:] = ["data/train.parquet"]
    with pytest.raises(ValueError, match=r"since it has none of \.txt, \.csv"):
        read("owner/dataset")


def test_a_file_of_a_dataset(hub):
    asked, _ = hub
    read("hf://datasets/owner/dataset/sets/a b.csv")
    read("hf://datasets/owner/dataset@v1/set.csv")
    assert asked == [("owner/dataset", "sets/a b.csv", "dataset", None), ("owner/dataset", "set.csv", "dataset", "v1")]


def test_a_search_leaves_the_entry_in_the_manifest(tmp_path):
    prompts = read(saved(tmp_path, GENEVAL, "evaluation_metadata.jsonl"))
    toy.found(prompt=prompts[:2], run_dir=tmp_path / "runs", budget=25)
    manifests = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("*/manifest.json"))]
    assert [manifest["settings"]["prompt"] for manifest in manifests] == prompts[:2]
    for k, manifest in enumerate(manifests):
        assert manifest["settings"]["prompt_set"] == {
            "source": "evaluation_metadata.jsonl",
            "place": k,
            "of": 3,
            "entry": json.loads(GENEVAL.splitlines()[k]),
        }
    toy.found(prompt="a star", run_dir=tmp_path / "one", budget=25)
    assert "prompt_set" not in json.loads((tmp_path / "one" / "manifest.json").read_text())["settings"]
