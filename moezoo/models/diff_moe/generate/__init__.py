"""Text generation on any function from token ids to the next token's logits: greedy, sampling, beam search."""

from moezoo.models.diff_moe.generate.generate import generate
from moezoo.models.diff_moe.generate.options import GenerationOptions, generation_options
from moezoo.models.diff_moe.generate.output import GenerationOutput

__all__ = ["GenerationOptions", "GenerationOutput", "generate", "generation_options"]
