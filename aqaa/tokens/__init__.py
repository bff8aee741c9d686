"""The language of tokens: ids, groups, text, prompts, the answer grammar, and drawing from it."""

from aqaa.tokens.answer import (
    Answer,
    AnswerEnd,
    AnswerParser,
    Event,
    Group,
    Segment,
    SegmentEnd,
    SegmentStart,
    TextRun,
    lay_out,
    parse,
)
from aqaa.tokens.classes import Choice, Choices, ClassRanges, TokenClass
from aqaa.tokens.grammar import Automaton, Caps, FinishReason, Grammar
from aqaa.tokens.groups import Ratios, merge, split
from aqaa.tokens.ids import IdLayout
from aqaa.tokens.philox import Domain, keyed_normals, philox4x32, uniform, uniforms
from aqaa.tokens.prompt import STEP_AUDIO_CHAT, STEP_AUDIO_TTS, Message, PromptBuilder, PromptTemplate
from aqaa.tokens.sampling import GREEDY, Repetition, Rule, Sampler, SamplingSettings
from aqaa.tokens.table import StartMode, Table, Task
from aqaa.tokens.text import Detokenizer, TextVocabulary, class_ranges

__all__ = [
    "GREEDY",
    "STEP_AUDIO_CHAT",
    "STEP_AUDIO_TTS",
    "Answer",
    "AnswerEnd",
    "AnswerParser",
    "Automaton",
    "Caps",
    "Choice",
    "Choices",
    "ClassRanges",
    "Detokenizer",
    "Domain",
    "Event",
    "FinishReason",
    "Grammar",
    "Group",
    "IdLayout",
    "Message",
    "PromptBuilder",
    "PromptTemplate",
    "Ratios",
    "Repetition",
    "Rule",
    "Sampler",
    "SamplingSettings",
    "Segment",
    "SegmentEnd",
    "SegmentStart",
    "StartMode",
    "Table",
    "Task",
    "TextRun",
    "TextVocabulary",
    "TokenClass",
    "class_ranges",
    "keyed_normals",
    "lay_out",
    "merge",
    "parse",
    "philox4x32",
    "split",
    "uniform",
    "uniforms",
]
