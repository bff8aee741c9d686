"""A small decoder, its grammar and plain stand-ins, shared by the tests of the decode engine."""

import numpy as np
import torch

from aqaa.engine.backbone import BackboneEngine, EngineSettings
from aqaa.models.step1 import Step1, Step1Config
from aqaa.tokens.classes import Choice, TokenClass

CONFIG = Step1Config(
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=4,
    num_attention_groups=2,
    num_hidden_layers=2,
    vocab_size=90,
    max_seq_len=256,
)


def small_model(seed=0):
    torch.manual_seed(seed)
    return Step1(CONFIG).eval()


def small_engine(**settings):
    return BackboneEngine(small_model(), EngineSettings(**{"capacity": 256, "tiles": (4, 8, 64)} | settings))


class Countdown:
    """Stands in for an automaton: everything is legal, and the sequence ends after a number of tokens."""

    def __init__(self, tokens, vocabulary=CONFIG.vocab_size):
        self.left, self.history = tokens, ()
        self.choices = (Choice(TokenClass.TEXT, ((0, vocabulary),)),)

    def push(self, token_id):
        self.left -= 1
        return TokenClass.TEXT

    @property
    def finish_reason(self):
        return "stop" if self.left == 0 else None


class Greedy:
    """Stands in for a sampler: the best legal id."""

    def choose(self, index, scored, history):
        choice, logits = max(scored, key=lambda pair: pair[1].max())
        ids = np.concatenate([np.arange(low, high) for low, high in choice.ranges])
        return int(ids[logits.argmax()])


def answer(engine, ids, tokens, **options):
    """Open and commit a request for a number of tokens."""
    request = engine.open(ids, **options)
    engine.commit(request, Countdown(tokens), Greedy())
    return request


def finish(engine):
    """Step until nothing is left; the events."""
    events = []
    while engine.busy:
        events += engine.step()
    return events
