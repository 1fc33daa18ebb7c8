"""Metrics of the package pyiqa where it is installed, else of one that has as much of its interface."""

import importlib
import importlib.util
import shutil
import sys

import pytest
import torch

from evosearch import rewards
from evosearch.catalogue_rewards import facts_of
from evosearch.rewards.pyiqa import Pyiqa

INSTALLED = importlib.util.find_spec("pyiqa") is not None
STAND_IN = """
import torch

METRICS = {"piqe": ("NR", True), "entropy": ("NR", False), "psnr": ("FR", False), "fid": ("NR", True)}


def list_models(metric_mode=None):
    return [name for name, (mode, _) in METRICS.items() if metric_mode in (None, mode)]


class InferenceModel(torch.nn.Module):
    def __init__(self, metric_name, as_loss=False, device=None, loss_reduction="mean"):
        super().__init__()
        self.lower_better, self.as_loss = METRICS[metric_name][1], as_loss
        assert not as_loss or loss_reduction == "none"

    def forward(self, target):
        assert target.min() > -1e-6 and target.max() < 1 + 1e-6
        with torch.set_grad_enabled(self.as_loss):
            return target.flatten(1).std(1, keepdim=True)  # as networks do; others leave out the second dimension


create_metric = InferenceModel
"""


@pytest.fixture
def pyiqa(tmp_path, monkeypatch):
    if not INSTALLED:
        (tmp_path / "pyiqa.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
    yield importlib.import_module("pyiqa")
    if not INSTALLED:
        sys.modules.pop("pyiqa")


def batch(count=5):
    return torch.rand(count, 3, 64, 80, generator=torch.Generator().manual_seed(0)), [""] * count


@pytest.mark.parametrize(("metric", "sign"), [("entropy", 1), ("piqe", -1)])
def test_it_is_the_metric_and_higher_is_better(pyiqa, metric, sign):
    samples, prompts = batch()
    expected = pyiqa.create_metric(metric, device="cpu")((samples * 255).round() / 255).flatten().float()
    assert expected.std() > 1e-4  # else anything would do
    found = Pyiqa(metric, device="cpu")(samples, prompts)
    assert found.shape == (5,) and torch.allclose(found, sign * expected, atol=1e-5)


def test_pictures_come_by_batch_and_a_video_has_the_mean_of_its_frames(pyiqa, monkeypatch):
    sizes = []
    samples, prompts = batch(6)
    score = Pyiqa("piqe", device="cpu", batch_size=4)
    score.weights().register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    alone = score(samples, prompts)
    assert sizes == [4, 2]
    assert torch.allclose(score(samples.unflatten(0, (2, 3)), prompts[:2]), alone.view(2, 3).mean(1), atol=1e-5)
    assert sizes == [4, 2, 4, 2]


def test_a_sample_that_is_not_finite_has_no_score_and_is_not_shown(pyiqa):
    samples, prompts = batch()
    score = Pyiqa("entropy", device="cpu")
    expected = score(samples, prompts)
    samples[2, 0, 0, 0] = torch.nan
    found = score(samples, prompts)
    assert found.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(found[~found.isnan()], expected[~found.isnan()])
    assert score(samples[2:3], [""]).isnan().all()
    assert score(samples[:0], []).shape == (0,)


def test_it_has_a_gradient_where_asked_for_one(pyiqa):
    samples, prompts = batch()
    samples.requires_grad_()
    assert not Pyiqa("piqe", device="cpu").differentiable
    assert not Pyiqa("piqe", device="cpu")(samples, prompts).requires_grad
    score = Pyiqa("piqe", device="cpu", differentiable=True)
    assert score.differentiable
    torch.autograd.grad(score(samples, prompts).sum(), samples)


def test_it_is_known_by_name_and_metric(pyiqa):
    samples, prompts = batch()
    score = rewards.load("pyiqa:piqe")
    assert torch.allclose(score(samples, prompts), Pyiqa("piqe")(samples, prompts))
    assert rewards.name_of(score) == "pyiqa:piqe"
    assert facts_of("pyiqa").state == "yes, found the package pyiqa"


@pytest.mark.skipif(INSTALLED, reason="pyiqa is installed")
def test_it_is_known_by_metric_options_and_version_and_not_without_one(pyiqa, tmp_path):
    def key(metric="piqe", **options):
        return getattr(Pyiqa(metric, device="cpu", **options), "cache_key", None)

    assert key() is None
    found = {key()}
    for version in ("0.1.15", "0.1.16"):
        described = tmp_path / f"pyiqa-{version}.dist-info" / "METADATA"
        described.parent.mkdir()
        described.write_text(f"Metadata-Version: 2.1\nName: pyiqa\nVersion: {version}\n")
        importlib.invalidate_caches()
        found |= {key(), key("entropy"), key(loss_reduction="none")}
        assert key() == key(batch_size=3) == key(differentiable=True)
        shutil.rmtree(described.parent)
    assert len(found) == 7 and {name.split()[0] for name in found if name} == {"pyiqa"}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("piqq", r"^pyiqa has no metric 'piqq'; did you mean 'piqe'\?$"),
        ("xxxx", r"^pyiqa has no metric 'xxxx'; pyiqa.list_models\(\) has all of them$"),
        ("psnr", "^metric must need no reference picture, .* got 'psnr'"),
        ("fid", "^metric must judge pictures one by one, got 'fid'"),
        ("", "^pyiqa needs the name of a metric, as in pyiqa:musiq"),
    ],
)
def test_what_is_no_metric_of_one_picture_is_refused(pyiqa, metric, message):
    with pytest.raises(ValueError, match=message):
        Pyiqa(metric)


def test_what_pyiqa_cannot_make_is_said_in_one_sentence(pyiqa):
    with pytest.raises(ValueError, match=r"^pyiqa cannot make its metric 'piqe': .*'nonsense'") as caught:
        Pyiqa("piqe", nonsense=1).weights()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(INSTALLED, reason="pyiqa is installed")
def test_without_the_package_it_says_how_to_get_it():
    assert facts_of("pyiqa").state == "no, needs the package pyiqa"
    with pytest.raises(ValueError, match=r"^reward pyiqa needs the package pyiqa: pip install pyiqa .*Noncommercial"):
        rewards.load("pyiqa:musiq")


def test_a_package_that_is_broken_is_named(tmp_path, monkeypatch):
    (tmp_path / "pyiqa.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"^package pyiqa, which reward pyiqa needs, cannot be imported: No module"):
        rewards.load("pyiqa:musiq")
