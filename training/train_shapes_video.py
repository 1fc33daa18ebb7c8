"""Train the bundled pipeline `shapes-video` from nothing; export it as a stock WanPipeline.

    python training/train_shapes_video.py
    python training/train_shapes_video.py transformer export --minutes 120

Its autoencoder learns from single frames first (`stills`), then from clips (`films`). Stages resume from their
checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

from functools import partial
from pathlib import Path

import autoencoder
import evaluate
import torch
import video_autoencoder
import video_transformer
from command import Command
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from export import trained, write
from loop import averaged_weights

STAGES = ("stills", "films", "transformer", "export", "card")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-video", STAGES)
    stills, films, transformer = (command.checkpoint(stage) for stage in STAGES[:3])
    if "stills" in command.stages:
        model = command.start(video_autoencoder.build, video_autoencoder.restore)
        plan = command.plan(1e-3, steps=970, muon=10)
        autoencoder.fit(model, plan, stills, partial(video_autoencoder.stills, plan.seed), bfloat16=True)
    if "films" in command.stages:
        model = command.start(video_autoencoder.build, video_autoencoder.restore)
        if stills.exists():
            model.load_state_dict(averaged_weights(stills))
        plan = command.plan(5e-4, steps=960, muon=10)
        autoencoder.fit(model, plan, films, partial(video_autoencoder.films, plan.seed), bfloat16=True)
    if "transformer" in command.stages:
        vae = video_autoencoder.load(trained(films, command.out / "vae"), command.device, command.out)
        model = command.start(video_transformer.VideoTransformer, video_transformer.restore)
        video_transformer.fit(model, command.plan(1e-3, steps=7000, muon=5), transformer, vae, command.compiled)
    if "export" in command.stages:
        export([stills, films, transformer], command.out)
    if "card" in command.stages:
        evaluate.write_card(command.name, command.out)


def export(checkpoints: list[Path], folder: Path) -> None:
    """Write the pipeline."""
    _, films, transformer = checkpoints
    model = video_transformer.load(trained(transformer))
    pipeline = WanPipeline(
        tokenizer=video_transformer.tokenizer(),
        text_encoder=model.text_encoder,
        transformer=model.transformer,
        vae=video_autoencoder.load(trained(films, folder / "vae"), torch.device("cpu"), folder),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    write(pipeline.save_pretrained, folder, checkpoints)


if __name__ == "__main__":
    main()
