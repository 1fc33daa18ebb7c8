"""VQAScore by small Qwen-VLs, and the pictures and messages that they are given."""

import pytest
import tiny_qwen_vl
import torch
from tiny_clip import picture, to_samples
from tiny_qwen_vl import folder, given, qwen2, qwen2_5, seen, tokenizer

from evosearch import rewards
from evosearch.rewards.qwen_vl import QwenVL
from evosearch.rewards.vqa_score import VqaScore

PROMPTS = ["a red circle", "two blue stars and a green square of a much longer prompt", "", "a cat"]
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
WORDS = tokenizer(QUESTION, *PROMPTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("qwen"), qwen2_5(WORDS), WORDS)


@pytest.fixture(scope="module")
def score(place):
    return VqaScore(place, dtype=torch.float32, device="cpu")


def pictures(count, size=(56, 84)):  # which is not resized: a level more or less is much to random weights
    return [picture(*size, seed) for seed in range(count)]


def published(model, images, prompts, question=QUESTION):
    """Logits of the first word of each answer, one at a time, without padding."""
    with torch.no_grad():
        return torch.stack(
            [model(**given(WORDS, question.format(p), i)).logits[0, -1] for i, p in zip(images, prompts, strict=True)]
        )


def word(text):
    (only,) = WORDS(text)["input_ids"]
    return only


@pytest.mark.parametrize(("make", "tied"), [(qwen2_5, False), (qwen2_5, True), (qwen2, False)])
def test_it_is_the_published_probability_of_yes(tmp_path, make, tied):
    model = make(WORDS, tied=tied)
    images = pictures(4)
    expected = published(model, images, PROMPTS).softmax(1)[:, word("Yes")]
    found = VqaScore(folder(tmp_path, model, WORDS), dtype=torch.float32, device="cpu")(to_samples(*images), PROMPTS)
    assert found.dtype == torch.float32 and expected.log().std() > 0.2  # else anything would do
    assert torch.allclose(found.log(), expected.log(), atol=1e-4)


def test_yes_is_weighed_against_no_in_all_their_spellings(place):
    images = pictures(4)
    odds = published(qwen2_5(WORDS), images, PROMPTS).softmax(1)
    spellings = (["Yes", "yes", "YES", " Yes", " yes"], ["No", "no", "NO", " No", " no"])
    known = [[ids[0] for ids in WORDS(words)["input_ids"] if len(ids) == 1] for words in spellings]
    assert min(map(len, known)) > 2
    yes, no = (odds[:, words].sum(1) for words in known)
    found = VqaScore(place, "yes_no", dtype=torch.float32, device="cpu")(to_samples(*images), PROMPTS)
    assert (yes / (yes + no)).std() > 0.01
    assert torch.allclose(found, yes / (yes + no), atol=1e-5)


def test_a_batch_of_prompts_is_read_in_one_pass_and_padding_changes_nothing(place, score):
    samples = to_samples(*pictures(8))
    prompts = PROMPTS * 2
    sizes = []
    hook = score.weights().qwen.model.register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    together = score(samples, prompts)
    assert sizes == [8]
    hook.remove()
    few = VqaScore(place, dtype=torch.float32, device="cpu", batch_size=3)(samples, prompts)
    assert torch.allclose(together, few, rtol=1e-3)


def test_a_video_scores_the_mean_of_its_frames(score):
    samples = to_samples(*pictures(6))
    alone = score(samples, [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3)
    together = score(samples.unflatten(0, (2, 3)), PROMPTS[:2])
    assert torch.allclose(together, alone.view(2, 3).mean(1), rtol=1e-3)


def test_it_has_a_gradient_that_points_up(score):
    samples = (0.25 + 0.5 * to_samples(*pictures(2))).requires_grad_()
    value = score(samples, PROMPTS[:2])
    (gradient,) = torch.autograd.grad(value.log().sum(), samples)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    step = 3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        assert (score(samples + step, PROMPTS[:2]) > value).all()
    assert score.differentiable and not score(samples.detach(), PROMPTS[:2]).requires_grad


def test_a_sample_that_is_not_finite_spoils_no_other(score):
    samples = to_samples(*pictures(3))
    expected = score(samples, PROMPTS[:3])
    samples[1, 0, 0, 0] = torch.nan
    found = score(samples, PROMPTS[:3])
    assert found.isnan().tolist() == [False, True, False]
    assert torch.allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-3)
    assert score(samples[:0], []).shape == (0,)


def test_half_precision_is_near_and_the_default(place, score):
    samples = to_samples(*pictures(4))
    half = VqaScore(place, device="cpu")
    assert half.weights().qwen.model.dtype == torch.bfloat16
    assert torch.allclose(half(samples, PROMPTS).log(), score(samples, PROMPTS).log(), atol=0.5)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_samples_are_refused(score, channels):
    with pytest.raises(ValueError, match=rf"^samples: expected a float tensor .* \(1, {channels}, 40, 40\)"):
        score(torch.zeros(1, channels, 40, 40), ["a red circle"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "cosine"}, "^variant must be one of vqascore, yes_no, got 'cosine'$"),
        ({"batch_size": 0}, "^batch_size must be at least 1, got 0$"),
        ({"max_pixels": 100}, "^max_pixels must be at least 3136, got 100$"),
        ({"question": "Is it good?"}, r"^question must have \{\} once, where the prompt goes, got 'Is it good\?'$"),
    ],
)
def test_wrong_arguments_are_refused(place, options, message):
    with pytest.raises(ValueError, match=message):
        VqaScore(place, **options)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder(tmp_path, qwen2_5(WORDS), WORDS)
    tokenizer("other words", extra=["<|of another|>"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^tokenizer must know <\|image_pad\|> as word \d+, as the model does"):
        VqaScore(tmp_path).weights()


def test_a_model_of_another_family_is_refused(tmp_path):
    from transformers import BlipConfig, BlipForConditionalGeneration

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BlipConfig(
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        text_config={**sizes, "vocab_size": 20},
        projection_dim=4,
    )
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    WORDS.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^model must be one of qwen2_vl, qwen2_5_vl, got blip"):
        VqaScore(tmp_path).weights()


def test_it_is_known_by_name_and_says_what_it_lacks():
    with pytest.raises(
        ValueError, match=r"^config.json of model 'Qwen/Qwen2.5-VL-7B-Instruct' cannot be had: .*; check the network"
    ):
        rewards.load("vqa-score")


# What a Qwen-VL is given


def messages(score, samples, texts):
    return score.weights().qwen.inputs(samples, "{}", texts)


def test_the_message_is_that_of_the_published_template(score):
    (image,) = pictures(1)
    ours = messages(score, to_samples(image)[:, None], ["a red circle"])
    theirs = given(WORDS, "a red circle", image)
    assert {*ours} - {*theirs} == {"attention_mask"}
    for name in ("input_ids", "mm_token_type_ids", "image_grid_thw"):
        assert torch.equal(ours[name], theirs[name])


def test_several_pictures_go_into_one_message(score):
    images = pictures(4)
    ours = messages(score, to_samples(*images).unflatten(0, (2, 2)), ["a", "a cat"])
    theirs = given(WORDS, "a cat", *images[2:])
    assert torch.equal(ours["input_ids"][1][-theirs["input_ids"].shape[1] :], theirs["input_ids"][0])
    assert torch.equal(ours["image_grid_thw"][2:], theirs["image_grid_thw"])
    assert (ours["pixel_values"].chunk(2)[1] - theirs["pixel_values"]).abs().mean() < 1e-2
    assert ours["attention_mask"].sum(1).tolist()[1] == theirs["input_ids"].shape[1]


@pytest.mark.parametrize("mark", tiny_qwen_vl.MARKS)
def test_marks_in_a_prompt_are_text(score, mark):
    (image,) = pictures(1)
    row = messages(score, to_samples(image)[:, None], [f"a {mark} b"])["input_ids"][0].tolist()
    plain = messages(score, to_samples(image)[:, None], ["a b"])["input_ids"][0].tolist()
    for other in tiny_qwen_vl.MARKS:
        assert row.count(WORDS.convert_tokens_to_ids(other)) == plain.count(WORDS.convert_tokens_to_ids(other))
    assert f"a {mark} b" in WORDS.decode(row)


@pytest.mark.parametrize(
    ("size", "limits"),
    [
        ((64, 96), {}),
        ((301, 200), {}),
        ((7, 5), {}),
        ((1, 1), {}),
        ((1, 190), {}),
        ((1000, 1400), {"least": 200704, "most": 200704}),
        ((56, 56), {"least": 200704, "most": 200704}),
        ((3000, 4000), {"most": 200704}),
    ],
)
def test_pictures_are_resized_and_cut_as_published(score, size, limits):
    image = picture(*size)
    ours = QwenVL(score.weights().qwen.model, WORDS, "cpu", 1, **limits).inputs(to_samples(image)[:, None], "{}", [""])
    pixels, grid = seen(image, **limits)
    assert torch.equal(ours["image_grid_thw"], grid)
    levels = (ours["pixel_values"] - pixels).abs() * 255 * 0.2613
    assert (levels > 0.5).float().mean() < 0.02  # nearly all are the same
    assert levels.max() < 3
