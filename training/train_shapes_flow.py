"""Train the bundled pipeline `shapes-flow` from nothing; export it as a stock FluxPipeline.

    python training/train_shapes_flow.py
    python training/train_shapes_flow.py transformer export --minutes 120

Pictures are encoded by the autoencoder of `shapes-diffusion`; train that first where it is missing. Stages resume from
their checkpoints in the runs folder; delete a checkpoint to start its stage afresh.
"""

from pathlib import Path

import evaluate
import flow_transformer
import tokens
from command import MODELS, Command
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from export import trained, write

STAGES = ("transformer", "export", "card")


def main() -> None:
    """Run the stages named on the command line."""
    command = Command(__doc__, "shapes-flow", STAGES)
    checkpoint = command.checkpoint("transformer")
    if "transformer" in command.stages:
        vae = autoencoder().to(command.device)
        model = command.start(flow_transformer.FlowTransformer, flow_transformer.restore)
        flow_transformer.fit(model, command.plan(1e-3, steps=5900), checkpoint, vae, command.compiled)
    if "export" in command.stages:
        export(checkpoint, command.out)
    if "card" in command.stages:
        evaluate.write_card(command.name, command.out)


def autoencoder() -> AutoencoderKL:
    """That of `shapes-diffusion`, with the shift that Flux pipelines ask for."""
    vae = AutoencoderKL.from_pretrained(MODELS / "shapes-diffusion/vae")
    vae.register_to_config(shift_factor=0.0)
    return vae.eval().requires_grad_(False)


def export(checkpoint: Path, folder: Path) -> None:
    """Write the pipeline."""
    model = flow_transformer.load(trained(checkpoint))
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder(),
        text_encoder=model.clip,
        tokenizer=tokens.tokenizer(),
        text_encoder_2=model.t5,
        tokenizer_2=tokens.t5_tokenizer(),
        transformer=model.transformer,
    )
    write(pipeline.save_pretrained, folder, [checkpoint])


if __name__ == "__main__":
    main()
