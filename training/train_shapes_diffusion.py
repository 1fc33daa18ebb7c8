"""Train the bundled pipeline `shapes-diffusion` from nothing; export it as a stock StableDiffusionPipeline.

    python training/train_shapes_diffusion.py
    python training/train_shapes_diffusion.py denoiser export --minutes 120

Stages resume from their checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

from functools import partial
from pathlib import Path

import autoencoder
import denoiser
import evaluate
import tokens
import torch
from command import Command
from export import trained, write

STAGES = ("autoencoder", "denoiser", "export", "card")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-diffusion", STAGES)
    first, second = command.checkpoint("autoencoder"), command.checkpoint("denoiser")
    if "autoencoder" in command.stages:
        model = command.start(autoencoder.build, autoencoder.restore)
        plan = command.plan(1e-3, steps=2600)
        model = model.to(memory_format=torch.channels_last)
        autoencoder.fit(model, plan, first, partial(autoencoder.draw, plan.seed))
    if "denoiser" in command.stages:
        vae = autoencoder.load(trained(first, command.out / "vae"), command.device, command.out)
        model = command.start(denoiser.Denoiser, denoiser.restore)
        denoiser.fit(model, command.plan(1e-3, steps=5000), second, vae, tokens.tokenizer(), command.compiled)
    if "export" in command.stages:
        export(first, second, command.out)
    if "card" in command.stages:
        evaluate.write_card(command.name, command.out)


def export(autoencoder_checkpoint: Path, denoiser_checkpoint: Path, folder: Path) -> None:
    """Write the pipeline."""
    model = denoiser.load(trained(denoiser_checkpoint))
    vae = autoencoder.load(trained(autoencoder_checkpoint, folder / "vae"), torch.device("cpu"), folder)
    pipeline = denoiser.pipeline(model, vae)
    write(pipeline.save_pretrained, folder, [autoencoder_checkpoint, denoiser_checkpoint])


if __name__ == "__main__":
    main()
