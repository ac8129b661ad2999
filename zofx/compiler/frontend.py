"""A checkpoint under a user's options → the program that the passes start from; nothing is read."""

from zofx.compiler.options import Options
from zofx.ir.program import Program
from zofx.models.capture import capture
from zofx.models.checkpoint import Checkpoint, build_on_meta
from zofx.models.soft_prompts import adapter_for


def captured(checkpoint: Checkpoint, options: Options) -> Program:
    """Trace a checkpoint's model, with the adapter that is to stand before the text.

    Raises:
        CaptureError: torch.export cannot trace it, or the checkpoint does not fit the model.
        UnsupportedError: the model has no place for the adapter.
    """
    model = build_on_meta(checkpoint.config, checkpoint.architecture)
    loaders = checkpoint.resolve(model)
    causal = checkpoint.architecture == "causal-lm"
    adapter = adapter_for(options.adapter) if options.adapter else None
    return capture(model, loaders, causal=causal, adapter=adapter)
