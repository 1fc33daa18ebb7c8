"""What the rewards of videos have in common: batches, frame rates, what they refuse, how they say what is missing."""

import shutil

import pytest
import tiny_videos
import torch
from huggingface_hub import constants
from tiny_qwen import clip

import evosearch as es
from evosearch import rewards
from evosearch.catalogue_rewards import facts_of

PROMPTS = ["a red circle moves to the left", "two blue stars and a very long tail of words", "", "a dog runs"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", params=tiny_videos.MADE)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def score(name, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp(name)
        made = tiny_videos.MADE[name](folder, batch_size=3)
        made.folder = folder
        return made


def batch(count, size=(2, 40, 56)):
    return torch.stack([clip(*size, seed) for seed in range(count)]), [PROMPTS[k % 4] for k in range(count)]


def test_a_batch_equals_one_by_one(score):
    videos, prompts = batch(4)
    before = videos.clone()
    together = score(videos, prompts)
    alone = torch.cat([score(videos[k : k + 1], prompts[k : k + 1]) for k in (0, 1, 3)])
    assert together.shape == (4,) and together.dtype == torch.float32 and not together.requires_grad
    assert together.std() > 1e-3  # else anything would do
    assert torch.allclose(together[[0, 1, 3]], alone, atol=1e-3)
    assert torch.equal(videos, before)


def test_a_video_that_is_not_finite_spoils_no_other(score):
    videos, prompts = batch(3)
    expected = score(videos, prompts)
    videos[1, 1, 0, 3, 3] = float("nan")
    found = score(videos, prompts)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.allclose(found[[0, 2]], expected[[0, 2]], atol=1e-4)
    assert score(videos[1:2], prompts[1:2]).isnan().all()


def test_only_what_survives_8_bits_counts(score):
    videos, prompts = batch(1)
    assert torch.allclose(score(videos + 0.4 / 255, prompts), score(videos, prompts), atol=1e-5)


def test_an_empty_batch_has_no_scores(score):
    assert score(torch.zeros(0, 4, 3, 40, 40), []).shape == (0,)


def test_what_is_no_video_is_refused(score, name):
    for samples, got in ((torch.zeros(1, 3, 40, 40), 1), (torch.zeros(1, 1, 3, 40, 40), 1)):
        with pytest.raises(ValueError) as caught:
            score(samples, ["a red circle"])
        assert str(caught.value) == f"samples: {name} judges videos, expected at least 2 frames of each, got {got}"
    with pytest.raises(
        ValueError, match=rf"^samples: {name} takes videos of which one side is .*, got 2 x 500; generate others$"
    ):
        score(torch.zeros(1, 2, 3, 2, 500), ["a red circle"])
    with pytest.raises(ValueError, match=r"^prompts: expected a list of 2 strings"):
        score(torch.zeros(2, 4, 3, 40, 40), ["a red circle"])
    with pytest.raises(ValueError, match=r"^samples: expected a float tensor"):
        score(torch.zeros(1, 4, 1, 40, 40), ["a red circle"])


@pytest.mark.parametrize("text", ["<|im_end|>", "<|video_pad|>", "<|VQ_reward|>", "{}", "{text_prompt}"])
def test_marks_in_a_prompt_are_text(score, text):
    tokenizer = score._qwen.tokenizer
    question = "<|im_start|> {} <|im_end|>"
    row, plain = (score._qwen.inputs(batch(1)[0], question, [said])["input_ids"][0] for said in (f"a{text} b", "a b"))
    marks = torch.tensor([*tokenizer.added_tokens_encoder.values()])
    assert row[torch.isin(row, marks)].tolist() == plain[torch.isin(plain, marks)].tolist()
    assert f"<|im_start|> a{text} b <|im_end|>" in tokenizer.decode(row)
    score.check(text, True)
    assert score(batch(1)[0], [f"a {text} b"]).isfinite().all()


def test_images_are_refused_before_any_is_made(score, name):
    with pytest.raises(ValueError) as caught:
        es.search("shapes-diffusion", "two red circles", score, "best_of_n", "1x", progress=False)
    assert str(caught.value) == f"{name} judges videos, and images are to be generated; take a reward of images"
    score.check("two red circles", None)


def test_a_frame_rate_that_it_was_told_stays(score):
    told = score.at_frame_rate(30)
    assert (score.frame_rate, told.frame_rate, told.at_frame_rate(8).frame_rate) == (None, 30, 30)
    videos, prompts = batch(1, (61, 40, 40))
    assert not torch.allclose(told.rated(videos, prompts), score.rated(videos, prompts), atol=1e-5)
    assert torch.equal(score.at_frame_rate(16).rated(videos, prompts), score.rated(videos, prompts))


def test_a_search_of_videos_is_judged(score):
    result = es.search(
        "shapes-video", "a red circle moves left", score, "best_of_n", "2x", steps=2, held_out="shapes", progress=False
    )
    scores = [entry.reward for entry in result.top(2)]
    assert result.best.reward == max(scores) and all(value == value for value in scores)


PLACES = {
    "video_reward": ("KwaiVGI/VideoReward", "Qwen/Qwen2-VL-2B-Instruct"),
    "video_score2": ("TIGER-Lab/VideoScore2",),
}


def test_weights_in_the_hubs_cache_are_all_it_takes(score, name, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for place in PLACES[name]:
        repository = tmp_path / f"models--{place.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(score.folder, repository / "snapshots" / ("0" * 40))
    assert facts_of(name).state == "yes, found in the cache"
    stock = rewards.load(name)
    assert rewards.name_of(stock) == name
    ours, theirs = score._qwen.model.state_dict(), stock._qwen.model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        assert weight.dtype == torch.bfloat16 and torch.allclose(weight.float(), ours[key], rtol=0.01), key


@pytest.mark.parametrize("name", tiny_videos.MADE)
def test_it_is_known_by_name_and_says_what_it_lacks(name):
    with pytest.raises(ValueError, match=r"cannot be had: .*; check the network") as caught:
        rewards.load(name)
    assert "\n" not in str(caught.value)
