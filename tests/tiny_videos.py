"""The rewards of videos, small, in the published formats, with random weights."""

import json
from pathlib import Path

import tiny_qwen
import torch
from transformers import Qwen2VLConfig, Qwen2VLModel

from evosearch.rewards import video_reward as module
from evosearch.rewards.video_reward import VideoReward
from evosearch.rewards.video_score2 import VideoScore2

QUESTION = Path(module.__file__).with_suffix(".txt").read_text("utf-8")
FILE = "checkpoint-11352/model.pth"
OUTER = "base_model.model."
MOST = 200704  # pixels of a frame
RANK, ALPHA = 4, 12
THINKING = """
You are an expert for evaluating AI-generated videos from three dimensions:
(1) visual quality \u2013 clarity, smoothness, artifacts;
(2) text-to-video alignment \u2013 fidelity to the prompt;
(3) physical/common-sense consistency \u2013 naturalness and physics plausibility.

Video prompt: {}

Please output in this format:
visual quality: <v_score>;
text-to-video alignment: <t_score>,
physical/common-sense consistency: <p_score>
"""
ANSWER = "visual quality: {};\ntext-to-video alignment: {},\nphysical/common-sense consistency: {}<|im_end|>"


def published_weights(config, seed=0):
    """A Qwen2-VL's with LoRA, by the names of 2024: the visual model beside the language model, all in bfloat16."""
    ours = tiny_qwen.shaken(Qwen2VLModel(config), seed).bfloat16().state_dict()
    generator = torch.Generator().manual_seed(seed + 1)
    found = {}
    for name, weight in ours.items():
        theirs = OUTER + name.replace("language_model.", "model.")
        if theirs.rpartition(".")[0].endswith("_proj"):
            layer, _, kind = theirs.rpartition(".")
            found[f"{layer}.base_layer.{kind}"] = weight
            if kind == "weight":
                down = torch.randn(RANK, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
                found[f"{layer}.lora_A.default.weight"] = down.bfloat16()
                up = torch.randn(len(weight), RANK, generator=generator) / 6
                found[f"{layer}.lora_B.default.weight"] = up.bfloat16()
        else:
            found[theirs] = weight
    found[f"{OUTER}lm_head.weight"] = found[f"{OUTER}model.embed_tokens.weight"].clone()
    found[f"{OUTER}rm_head.weight"] = (torch.randn(1, 32, generator=generator) * 2).bfloat16()
    return found


def video_reward(folder, **options):
    """With the base's config and tokenizer beside it, which knows three words fewer than the checkpoint."""
    words = tiny_qwen.tokenizer(QUESTION)
    config = tiny_qwen.flat(words, len(words) + 40)  # room for more, which the checkpoint has not
    (folder / "config.json").write_text(json.dumps(config))
    words.save_pretrained(folder)
    made = Qwen2VLConfig.from_dict(config)
    made.text_config.vocab_size = len(words) + 3
    (folder / "checkpoint-11352").mkdir(exist_ok=True)
    torch.save(published_weights(made), folder / FILE)
    settings = {
        "data_config": {"fps": 2.0, "max_frame_pixels": MOST, "num_frames": None, "sample_type": "uniform"},
        "model_config": {"output_dim": 1, "use_special_tokens": True, "reward_token": "special"},
        "peft_lora_config": {"lora_enable": True, "lora_r": RANK, "lora_alpha": ALPHA, "use_rslora": False},
    }
    (folder / "model_config.json").write_text(json.dumps(settings))
    return VideoReward(folder, folder, **{"dtype": torch.float32, **options})


def video_score2(folder, **options):
    tiny_qwen.answering(THINKING, ANSWER).save_pretrained(folder)
    tiny_qwen.tokenizer(THINKING).save_pretrained(folder)
    return VideoScore2(folder, **{"dtype": torch.float32, "most_tokens": 60, **options})


MADE = {"video_reward": video_reward, "video_score2": video_score2}
