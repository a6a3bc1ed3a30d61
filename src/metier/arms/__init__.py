"""The alternatives under assessment: one file an arm, all on the same rows with the same grader."""

from metier.arms.encoder import EncoderArm
from metier.arms.endpoint import EndpointReplier
from metier.arms.few_shot import FewShotArm
from metier.arms.instructions import read_wordings, short_instruction
from metier.arms.prompt import PromptArm
from metier.arms.replier import Replier
from metier.arms.retrieval import RetrievalArm
from metier.arms.small import SmallArm
from metier.arms.template import TemplateArm
from metier.arms.tuned import TunedArm

__all__ = [
    "EncoderArm",
    "EndpointReplier",
    "FewShotArm",
    "PromptArm",
    "Replier",
    "RetrievalArm",
    "SmallArm",
    "TemplateArm",
    "TunedArm",
    "read_wordings",
    "short_instruction",
]
