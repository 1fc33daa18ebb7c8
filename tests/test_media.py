"""Files of pictures and videos, and what is written into them."""

from __future__ import annotations

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import toy
from PIL import Image

from evosearch import media
from evosearch.genome import from_json
from evosearch.media import picture, png, texts, write_video

FRAMES = [Image.new("RGB", (18, 14), (20 * k, 0, 0)) for k in range(5)]


def reopened(tmp_path, data: bytes) -> Image.Image:
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        return image


def test_picture_of_a_video_is_its_middle_frame():
    assert picture(FRAMES) is FRAMES[2]
    assert picture(FRAMES[0]) is FRAMES[0]


def test_png_says_how_to_make_it_again(tmp_path):
    result = toy.found(run_dir=tmp_path / "run")
    image = reopened(tmp_path, png(result.best.sample, texts(result.best, result.settings, result.cost)))
    assert image.tobytes() == result.best.sample.tobytes()
    said = json.loads(image.text["evosearch"])
    assert {"prompt", "model", "reward", "algorithm", "knobs", "seed", "genome", "cost"} <= said.keys()
    assert (said["prompt"], said["algorithm"], said["reward"]) == ("bright", "evosearch", "bright")
    assert said["reward_value"] == result.best.reward
    assert from_json(said["genome"]) == result.best.genome
    assert said["cost"]["nfe"] == 100


def test_parameters_are_what_image_viewers_read():
    result = toy.found()
    settings = result.settings | {
        "model": "/home/someone/models/a, b",
        "scheduler": "DDIMScheduler",
        "pipeline_kwargs": {"guidance_scale": 3.0, "negative_prompt": "dark"},
    }
    said = texts(result.best, settings, result.cost)
    prompt, negative, last = said["parameters"].split("\n")
    assert (prompt, negative) == ("bright", "Negative prompt: dark")
    assert last.startswith('Steps: 5, Sampler: DDIM, CFG scale: 3.0, Seed: 0, Size: 16x16, Model: "a, b", ')
    assert "Search: evosearch" in last and f"NFE: {result.best.nfe}" in last
    assert "someone" not in str(said)


@pytest.mark.parametrize("prompt", toy.HOSTILE, ids=range(len(toy.HOSTILE)))
def test_any_prompt_goes_into_a_png(tmp_path, prompt):
    result = toy.found(prompt=prompt, budget=25)
    image = reopened(tmp_path, png(result.best.sample, texts(result.best, result.settings, result.cost)))
    assert json.loads(image.text["evosearch"])["prompt"] == prompt
    kept = prompt.replace("\0", "").replace("\udc80", "?")
    assert image.text["parameters"].startswith(kept + "\nSteps: 5, ")


@pytest.mark.parametrize("size", [(18, 14), (15, 9), (300, 258)])
def test_video_has_every_frame(tmp_path, size):
    frames = [frame.resize(size) for frame in FRAMES]
    write_video(tmp_path / "a.mp4", frames, {})
    about = next(imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4")))
    assert min(about["size"]) >= 240  # small ones are enlarged
    assert about["fps"] == 16
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    shown = np.frombuffer(raw, np.uint8).reshape(5, -1, 3)
    assert [round(frame[:, 0].mean() / 20) for frame in shown] == [0, 1, 2, 3, 4]


def test_video_keeps_the_frame_rate_it_was_asked_for(tmp_path):
    for settings in ({"pipeline_kwargs": {"frame_rate": 24}, "frame_rate": 8}, {"frame_rate": 24.0}):
        write_video(tmp_path / "a.mp4", FRAMES, settings)
        assert next(imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4")))["fps"] == 24


def test_video_that_was_not_written_whole_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(media.imageio_ffmpeg, "count_frames_and_secs", lambda path: (3, 0.2))
    with pytest.raises(OSError, match=r"not written whole: 3 of 5 frames in .*a\.mp4"):
        write_video(tmp_path / "a.mp4", FRAMES, {})
