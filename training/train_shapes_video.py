"""Train the bundled pipeline `shapes-video` from nothing; export it as a stock WanPipeline.

    python training/train_shapes_video.py
    python training/train_shapes_video.py transformer export --minutes 120

Stages resume from their checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

from pathlib import Path

import torch
import video_autoencoder
import video_transformer
from command import Command
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from export import write

STAGES = ("autoencoder", "transformer", "export")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-video", STAGES)
    first, second = command.checkpoint("autoencoder"), command.checkpoint("transformer")
    if "autoencoder" in command.stages:
        model = command.start(video_autoencoder.build, video_autoencoder.restore)
        video_autoencoder.fit(model, command.plan(1e-3, minutes=26, muon=10), first)
    if "transformer" in command.stages:
        vae = video_autoencoder.load(first, command.device)
        model = command.start(video_transformer.VideoTransformer, video_transformer.restore)
        video_transformer.fit(model, command.plan(1e-3, minutes=75), second, vae, command.compiled)
    if "export" in command.stages:
        export(first, second, command.out)


def export(autoencoder_checkpoint: Path, transformer_checkpoint: Path, folder: Path) -> None:
    """Write the pipeline."""
    model = video_transformer.load(transformer_checkpoint)
    pipeline = WanPipeline(
        tokenizer=video_transformer.tokenizer(),
        text_encoder=model.text_encoder,
        transformer=model.transformer,
        vae=video_autoencoder.load(autoencoder_checkpoint, torch.device("cpu")),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )
    write(pipeline.save_pretrained, folder, [autoencoder_checkpoint, transformer_checkpoint])


if __name__ == "__main__":
    main()
