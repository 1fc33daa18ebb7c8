"""Train `shapes-diffusion-large`: `shapes-diffusion` with a wider denoiser, four times its parameters in all.

    python training/train_shapes_diffusion_large.py --compile

The model is written to training/models, outside the package, and loads from there. A step costs 6.4 times that of
the small one, so that 6,500 of them are eight times its compute; with half as many it is no better than the small one.
The autoencoder is that of `shapes-diffusion`.
"""

from functools import partial

import denoiser
import evaluate
import tokens
from command import LARGE, MODELS, Command
from diffusers import AutoencoderKL
from export import trained, write

WIDTH = 256
STEPS = 6500
STAGES = ("denoiser", "export", "card")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-diffusion-large", STAGES, LARGE)
    checkpoint = command.checkpoint("denoiser")
    vae = AutoencoderKL.from_pretrained(MODELS / "shapes-diffusion/vae").eval().requires_grad_(False)
    if "denoiser" in command.stages:
        model = command.start(partial(denoiser.Denoiser, WIDTH), denoiser.restore)
        plan = command.plan(7e-4, steps=STEPS)
        denoiser.fit(model, plan, checkpoint, vae.to(command.device), tokens.tokenizer(), command.compiled)
    if "export" in command.stages:
        pipeline = denoiser.pipeline(denoiser.load(trained(checkpoint), WIDTH), vae.cpu())
        write(pipeline.save_pretrained, command.out, [checkpoint])
    if "card" in command.stages:
        evaluate.write_card(command.name, command.out)


if __name__ == "__main__":
    main()
