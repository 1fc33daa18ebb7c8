"""What the rewards of pictures that people use have in common: batches, videos, gradients, what they refuse."""

import pytest
import torch
from tiny_clip import PROMPTS, SIDE, picture, to_samples
from tiny_rewards import MADE
from torch.nn.modules.module import register_module_forward_hook

from evosearch import rewards


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", params=MADE)
def made(request, tmp_path_factory):
    """Make the same reward with other options."""
    folder = tmp_path_factory.mktemp(request.param)
    return lambda **options: MADE[request.param](folder, **options)


@pytest.fixture(scope="module")
def score(made, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return made()


def batch(count):
    return to_samples(*(picture(40, 56, seed) for seed in range(count))), [PROMPTS[i % 4] for i in range(count)]


@pytest.fixture
def seen():
    """How many pictures each pass of a model has seen: patches are taken by a convolution."""
    sizes = []

    def note(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            sizes.append(len(inputs[0]))

    hook = register_module_forward_hook(note)
    yield sizes
    hook.remove()


def test_a_batch_equals_one_by_one_in_one_pass(score, seen):
    samples, prompts = batch(32)
    together = score(samples, prompts)
    assert seen == [32]
    alone = [score(samples[i : i + 1], prompts[i : i + 1]) for i in range(0, 32, 5)]
    assert together.shape == (32,) and together.dtype == torch.float32
    assert together.std() > 0.01  # else anything would do
    assert torch.allclose(together[::5], torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 6), (4, [4, 2]), (100, [6])])
def test_batch_size_bounds_a_pass_and_nothing_else(made, score, seen, batch_size, sizes):
    samples, prompts = batch(6)
    expected = score(samples, prompts)
    seen.clear()
    assert torch.allclose(made(batch_size=batch_size)(samples, prompts), expected, atol=1e-5)
    assert seen == sizes


def test_a_video_scores_the_mean_of_its_frames_in_one_pass(score, seen):
    samples, _ = batch(6)
    prompts = ["a red circle", "two blue stars"]
    alone = score(samples, [prompts[0]] * 3 + [prompts[1]] * 3)
    assert torch.allclose(score(samples.unflatten(0, (2, 3)), prompts), alone.view(2, 3).mean(1), atol=1e-5)
    assert seen == [6, 6]


def test_it_has_a_gradient_that_points_up(made):
    score = made()
    assert score.differentiable
    samples, prompts = batch(4)
    with torch.inference_mode():
        score(samples, prompts)  # what it keeps of prompts must serve with a gradient, too
    samples = (0.25 + 0.5 * samples).requires_grad_()
    value = score(samples, prompts)
    (gradient,) = torch.autograd.grad(value.sum(), samples)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        assert (score(samples + step, prompts) > value).all()


def test_it_asks_for_no_gradient_of_its_own(score):
    samples, prompts = batch(1)
    assert not score(samples, prompts).requires_grad


def test_half_precision_is_near(made, score):
    samples, prompts = batch(8)
    half, whole = made(dtype=torch.bfloat16)(samples.bfloat16(), prompts), score(samples.bfloat16(), prompts)
    assert half.dtype == torch.float32
    assert 0 < (half - whole).abs().mean() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_spoils_no_other(score, bad):
    samples, prompts = batch(4)
    expected = score(samples, prompts)
    samples[2, 1, 0, 0] = bad  # in a part that is cut off
    found = score(samples, prompts)
    assert found.isnan().tolist() == [False, False, True, False]
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


def test_only_what_survives_8_bits_counts(score):
    samples, prompts = batch(4)
    before = samples.clone()
    assert torch.allclose(score(samples + 0.4 / 255, prompts), score(samples, prompts), atol=1e-5)
    assert not torch.allclose(score(samples * 0.97, prompts), score(samples, prompts), atol=1e-4)
    assert torch.equal(samples, before)


def test_an_empty_batch_has_no_scores(score):
    assert score(torch.zeros(0, 3, 40, 40), []).shape == (0,)
    assert score(torch.zeros(0, 5, 3, 40, 40), []).shape == (0,)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3000, 4000)])
def test_any_size_has_a_score(score, size):
    assert score(to_samples(picture(*size)), PROMPTS[:1]).isfinite().all()


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_samples_are_refused(score, channels):
    with pytest.raises(ValueError, match=rf"^samples: expected a float tensor .* \(1, {channels}, 40, 40\)"):
        score(torch.zeros(1, channels, 40, 40), ["a red circle"])


def test_wrong_arguments_are_refused(made, score):
    with pytest.raises(ValueError, match=r"^prompts: expected a list of 2 strings"):
        score(torch.zeros(2, 3, SIDE, SIDE), ["a red circle"])
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0$"):
        made(batch_size=0)


@pytest.mark.parametrize("name", MADE)
def test_it_is_known_by_name_and_says_what_it_lacks(name):
    with pytest.raises(ValueError, match=r"cannot be had: .*; (check the network|get it by other means)") as caught:
        rewards.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MADE)
def test_its_docstring_says_where_its_weights_come_from_and_on_what_terms(name):
    import sys

    with pytest.raises(ValueError, match="cannot be had"):
        rewards.load(name)
    made = getattr(sys.modules[f"evosearch.rewards.{name}"], rewards.NAMES[name])
    assert "Checkpoint: ``" in made.__doc__ and "licence" in made.__doc__
    assert "arXiv:" in sys.modules[made.__module__].__doc__
