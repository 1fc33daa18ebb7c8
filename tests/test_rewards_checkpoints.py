"""Checkpoints are found, converted once and whole, and what cannot be had is said in one sentence."""

import hashlib
import os
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import tiny_clip
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel

from evosearch.rewards import places
from evosearch.rewards.checkpoints import config_of, fill, pretrained, tensors, tokenizer_of
from evosearch.rewards.places import cache_folder, locate, look_for


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def head():
    return {"layers.0.weight": torch.randn(2, 3), "layers.0.bias": torch.randn(2)}


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EVOSEARCH_CACHE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "hf"))  # it is read at import
    assert cache_folder() == tmp_path / "hf" / "evosearch"


# finding


def test_a_file_and_a_folder_are_found(tmp_path):
    file = tmp_path / "odd name.pt"
    file.touch()
    assert locate(file, "head.pt") == locate(str(tmp_path), "odd name.pt") == file


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{tmp}", r"^folder {tmp} has no file head\.pt; put it there, or name another folder$"),
        ("{tmp}/none", r"^there is no file or folder {tmp}/none, and it is no hub id 'owner/name'; check its sp"),
        ("./none", r"^there is no file or folder \./none, and it is no hub id"),
        ("none", r"^there is no file or folder none, and it is no hub id"),
        ("a/b--c", r"^head\.pt of model 'a/b--c' cannot be had: .*; check the network, or give the folder of a copy$"),
        ("a/b", r"^head\.pt of model 'a/b' cannot be had: it is not in the hub's cache, and the h"),
        ("https://example.org/a/head%2B1.pt", r"^https://example.org/a/head%2B1.pt cannot be had: HF_HUB_OFFLINE is set"
         r", and it is not in .*cache; get it by other means, and give the path of head\+1\.pt$"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(place, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("{tmp}", re.escape(str(tmp_path)))) as caught:
        locate(place.format(tmp=tmp_path), "head.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError) as looked:
        look_for(place.format(tmp=tmp_path), "head.pt")
    assert str(looked.value) == str(caught.value)


class Answers(BaseHTTPRequestHandler):
    """The content of ``/head.pt``, less than was promised of ``/cut.pt``, and nothing of others."""

    asked: list[str]
    content: bytes

    def do_GET(self):
        self.asked.append(self.path)
        if self.path not in ("/head.pt", "/cut.pt"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content if self.path == "/head.pt" else self.content[:-1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    handler = type("Handler", (Answers,), {"asked": [], "content": b"weights" * 1000})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


def test_a_url_is_downloaded_once(server, cache):
    url, handler = server
    path = locate(f"{url}/head.pt", "head.pt")
    assert path.read_bytes() == handler.content and path.suffix == ".pt"
    assert locate(f"{url}/head.pt", "head.pt") == path
    assert handler.asked == ["/head.pt"]


@pytest.mark.parametrize("name", ["cut.pt", "other.pt"])
def test_nothing_is_kept_of_what_did_not_come_whole(server, cache, name):
    with pytest.raises(ValueError, match=rf"/{name} cannot be had \(.+\); check the network, or get it by other means"):
        locate(f"{server[0]}/{name}", name)
    assert not list(cache.glob("*") if cache.exists() else [])


def test_what_is_looked_for_is_not_downloaded(server, cache):
    url, handler = server
    look_for(f"{url}/head.pt", "head.pt")
    assert handler.asked == ["/head.pt"] and not cache.exists()
    with pytest.raises(ValueError, match=r"other\.pt cannot be had \(HTTP Error 404"):
        look_for(f"{url}/other.pt", "other.pt")
    locate(f"{url}/head.pt", "head.pt")
    look_for(f"{url}/head.pt", "head.pt")  # is at hand by now
    assert handler.asked == ["/head.pt", "/other.pt", "/head.pt"]


def test_of_several_files_any_will_do(tmp_path):
    with pytest.raises(ValueError, match=r"has no file tokenizer\.json or vocab\.json; put it there"):
        look_for(tmp_path, "tokenizer.json|vocab.json")
    (tmp_path / "vocab.json").touch()
    look_for(tmp_path, "tokenizer.json|vocab.json")
    look_for(tmp_path / "vocab.json", "another.json")


def test_it_says_once_that_it_asks_the_hub_and_not_for_what_is_at_hand(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path))
    places.announce.cache_clear()
    for _ in range(2):
        look_for("owner/name", "a.pt")
        locate("owner/name", "a.pt")
    told = capsys.readouterr()
    assert told.out == "" and told.err == "looking for owner/name on the hub\n"
    (tmp_path / "a.pt").touch()
    look_for(tmp_path, "a.pt")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    look_for("owner/another", "a.pt")
    assert capsys.readouterr().err == ""


class _Lacking(RemoteEntryNotFoundError):
    def __init__(self, message):
        OSError.__init__(self, message)


@pytest.mark.parametrize("there", ["model.safetensors", "pytorch_model.bin", None])
def test_the_hub_is_asked_for_one_after_the_other_and_for_no_content(monkeypatch, there):
    asked = []

    def download(place, file, *, dry_run):
        asked.append((place, file, dry_run))
        if file != there:
            raise _Lacking(f"no {file}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files = ["model.safetensors", "pytorch_model.bin"]
    if there is None:
        with pytest.raises(ValueError, match=r"^model\.safetensors of model 'owner/name' cannot be had: no pytorch"):
            look_for("owner/name", "|".join(files))
    else:
        look_for("owner/name", "|".join(files))
    assert asked == [("owner/name", file, True) for file in files[: files.index(there) + 1 if there else 2]]


# converting


@pytest.mark.parametrize("inside", [None, "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_converted_once_and_says_where_it_came_from(tmp_path, cache, head, inside, legacy):
    file = tmp_path / "head.pt"
    content = head if inside is None else {"epoch": 3, "name": "x", inside: head}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    found = tensors(file, inside)
    assert found.keys() == head.keys() and all(torch.equal(found[name], head[name]) for name in head)
    (kept,) = cache.iterdir()
    assert kept.suffix == ".safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with safe_open(kept, "pt") as opened:
        assert opened.metadata() == {"source": "head.pt", "sha256": digest}
    before = kept.stat().st_mtime_ns
    assert torch.equal(tensors(file, inside)["layers.0.bias"], head["layers.0.bias"])
    assert kept.stat().st_mtime_ns == before


def test_another_file_of_the_same_name_is_converted_anew(tmp_path, cache, head):
    file = tmp_path / "head.pt"
    torch.save(head, file)
    tensors(file)
    torch.save({name: weight + 1 for name, weight in head.items()}, file)
    assert torch.equal(tensors(file)["layers.0.bias"], head["layers.0.bias"] + 1)


def test_weights_that_share_memory_or_are_views_are_kept_apart(tmp_path):
    weight = torch.randn(3, 4)
    torch.save({"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}, tmp_path / "x.pth")
    found = tensors(tmp_path / "x.pth")
    assert torch.equal(found["a"], weight) and torch.equal(found["b"], weight)
    assert torch.equal(found["c"], weight.T) and torch.equal(found["d"], weight[1:])


def test_the_name_that_the_hub_gives_a_file_is_its_digest(tmp_path, cache, head):
    digest = "0123456789abcdef" * 4
    blob = tmp_path / "blobs" / digest
    blob.parent.mkdir()
    torch.save(head, blob)
    (tmp_path / "head.pt").symlink_to(blob)
    tensors(tmp_path / "head.pt")
    assert [kept.name for kept in cache.iterdir()] == [f"head-{digest[:16]}.safetensors"]


def test_safetensors_are_read_as_they_are(tmp_path, cache, head):
    save_file(head, tmp_path / "head.safetensors")
    assert torch.equal(tensors(tmp_path / "head.safetensors")["layers.0.bias"], head["layers.0.bias"])
    assert not cache.exists()


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVOSEARCH_CACHE"] + "-harmed",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, cache):
    torch.save({"weight": torch.zeros(1), "other": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"^checkpoint .*bad\.pt holds more than tensors, which could run any code; "):
        tensors(tmp_path / "bad.pt")
    assert not Path(f"{cache}-harmed").exists()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("content", "spoil", "message"),
    [
        ({"a": torch.zeros(100)}, _cut, r"cannot be read \(.+\); delete it and get it anew$"),
        ({"a": 1}, None, r"holds no tensors by name; is it the published file\?$"),
        ([torch.zeros(1)], None, r"holds no tensors by name; is it the published file\?$"),
        ({}, lambda path: path.write_bytes(b""), r"cannot be read \(.+\); delete it and get it anew$"),
    ],
)
def test_a_spoilt_pickle_is_named(tmp_path, cache, content, spoil, message):
    torch.save(content, tmp_path / "x.pt")
    if spoil:
        spoil(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"^checkpoint {re.escape(str(tmp_path))}/x\.pt {message}") as caught:
        tensors(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_spoilt_safetensors_file_is_named(tmp_path, head):
    save_file(head, tmp_path / "x.safetensors")
    _ = (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"^checkpoint .*x\.safetensors cannot be read \(.+\); delete it and get it"):
        tensors(tmp_path / "x.safetensors")


def test_no_half_file_remains_when_writing_fails(tmp_path, cache, head, monkeypatch):
    torch.save(head, tmp_path / "head.pt")

    def full(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(places.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        tensors(tmp_path / "head.pt")
    assert not list(cache.iterdir())


# filling


def test_a_model_is_filled_and_what_is_wrong_is_named(head):
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 2)])})
    fill(model, {**head, "other": torch.zeros(1)}, Path("head.pt"))
    assert torch.equal(model.state_dict()["layers.0.bias"], head["layers.0.bias"])
    with pytest.raises(
        ValueError, match=r"^checkpoint head\.pt has no weight for layers\.0\.weight; is it the publish"
    ):
        fill(model, {"layers.0.bias": head["layers.0.bias"]}, Path("head.pt"))
    with pytest.raises(ValueError, match=r"must have a weight of shape \(2,\) for layers\.0\.bias, got \(5,\); is it"):
        fill(model, {**head, "layers.0.bias": torch.zeros(5)}, Path("head.pt"))
    theirs = {f"mlp.{name}": weight + 1 for name, weight in head.items()}
    fill(model, theirs, Path("head.pt"), lambda name: f"mlp.{name}")
    assert torch.equal(model.state_dict()["layers.0.bias"], head["layers.0.bias"] + 1)
    with pytest.raises(ValueError, match=r"has no weight for mlp\.layers\.0\.weight; is it the published file\?$"):
        fill(model, head, Path("head.pt"), lambda name: f"mlp.{name}")


def test_a_model_of_transformers_is_never_left_at_random(tmp_path):
    folder = tiny_clip.folder(tmp_path / "clip")
    weights = tensors(folder / "model.safetensors")
    del weights["vision_model.post_layernorm.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = r"clip' has no weight for vision_model\.post_layernorm\.bias; is it a CLIPModel\?$"
    with pytest.raises(ValueError, match=message):
        pretrained(CLIPModel, folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"^folder {tmp} cannot be had: .*model\.safetensors.*; get the f",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x"),
            r"^folder {tmp} cannot be had: .*; get the folder anew",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"^folder {tmp} cannot be had: .*JSON.*; get the folder anew"),
        (lambda f: (f / "config.json").unlink(), r"^folder {tmp} cannot be had: .*; get the folder anew"),
    ],
)
def test_a_folder_that_is_not_complete_is_named(tmp_path, spoil, message):
    spoil(tiny_clip.folder(tmp_path))
    with pytest.raises(ValueError, match=message.replace("{tmp}", re.escape(str(tmp_path)))) as caught:
        pretrained(CLIPModel, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["a/b", "{tmp}"])
def test_a_tokenizer_that_is_not_there_is_named(tmp_path, place):
    message = r"^tokenizer of (model 'a/b'|folder .*) cannot be had: .+; (check the network|get the folder anew)"
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer_of(place.format(tmp=tmp_path), 54)
    assert "\n" not in str(caught.value)


def test_an_empty_tokenizer_is_named(tmp_path):
    folder = tiny_clip.folder(tmp_path)
    assert len(tokenizer_of(folder, 54)) == 54
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"^tokenizer of '.*' must know 54 words as the model does, got \d; are all of "
    ):
        tokenizer_of(folder, 54)


def test_a_config_that_is_not_there_or_spoilt_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^folder .* has no file med\.json; put it there, or name another folder$"):
        config_of(tmp_path, "med.json")
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert config_of(tmp_path, needed=["a"]) == {"a": 1}
    with pytest.raises(ValueError, match=r"^config .*config\.json says nothing of b; is it the published file\?$"):
        config_of(tmp_path, needed=["a", "b"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"^config .*config\.json cannot be read \(.+\); delete it and get it anew$"):
        config_of(tmp_path)
