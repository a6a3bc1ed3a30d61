"""Where weights live and move: load, train, score, save. The one decoder is `metier.engine.decode`."""

from metier.engine.batch import Batch, check_row, make_batch, plan_steps
from metier.engine.decode import Decoder, Event, sample
from metier.engine.families import read_shape
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.load import close, load
from metier.engine.loop import StepStats, forward_backward, logprobs, optim_step
from metier.engine.losses import Clipped, Custom, Linear, Loss, RowLogps
from metier.engine.model_files import changes_nothing, continue_tuned, export_model, load_tuned, tuned_file
from metier.engine.peft_files import export_adapter
from metier.engine.ranks import Ranks, close_ranks, current_ranks, open_ranks
from metier.engine.sampling import Request, Sample, SamplingParams
from metier.engine.state import drop_state, find_state, load_state, save_state, state_names
from metier.engine.weight_files import num_weights

__all__ = [
    "AdapterSpec",
    "Batch",
    "Clipped",
    "Custom",
    "Decoder",
    "Event",
    "Handle",
    "Linear",
    "Loss",
    "Ranks",
    "Request",
    "RowLogps",
    "Sample",
    "SamplingParams",
    "StepStats",
    "changes_nothing",
    "check_row",
    "close",
    "close_ranks",
    "continue_tuned",
    "current_ranks",
    "drop_state",
    "export_adapter",
    "export_model",
    "find_state",
    "forward_backward",
    "load",
    "load_state",
    "load_tuned",
    "logprobs",
    "make_batch",
    "num_weights",
    "open_ranks",
    "optim_step",
    "plan_steps",
    "read_shape",
    "sample",
    "save_state",
    "state_names",
    "tuned_file",
]
