"""Messages to tokens and a mask of trained tokens, and back; what must hold is checked on every row."""

from metier.render.invariants import check_invariants, show
from metier.render.learned import with_instruction
from metier.render.pairs import RenderedPair, RenderedPairs, render_pairs
from metier.render.renderer import RenderedRow, RenderedRows, Renderer
from metier.render.template import Conversation

__all__ = [
    "Conversation",
    "RenderedPair",
    "RenderedPairs",
    "RenderedRow",
    "RenderedRows",
    "Renderer",
    "check_invariants",
    "render_pairs",
    "show",
    "with_instruction",
]
