"""A small text vocabulary of the family's shape, and the grammar over it."""

import io

import pytest
import sentencepiece

from aqaa.tokens import Caps, ClassRanges, Grammar, IdLayout, Ratios, TextVocabulary

TEXT = "the cat sees a big dog in the garden Paris is the capital of France seven plus two equals nine"
CAPS = Caps(groups_base=1_000, groups_per_text=10, segments=100, text=1_000, tokens=10_000)
PUBLIC_RATIOS = Ratios(text=10, linguistic=2, semantic=3, groups=3)


@pytest.fixture(scope="session")
def train_model():
    """Trains a byte-fallback unigram model; keywords go to the trainer."""

    def train(**options) -> bytes:
        words = TEXT.split()
        sentences = [" ".join(words[start::step]) for start in range(15) for step in range(1, 5)] * 3
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=340,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=2,
            num_threads=1,
            **{
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "control_symbols": ["<|EOT|>", "<|BOT|>", "<audio_start>"],
                "user_defined_symbols": ["<audio_end>", "<slow>", "\n"],
            }
            | options,
        )
        return model.getvalue()

    return train


@pytest.fixture(scope="session")
def model(train_model) -> bytes:
    return train_model()


@pytest.fixture(scope="session")
def vocabulary(model) -> TextVocabulary:
    return TextVocabulary(model)


@pytest.fixture(scope="session")
def ranges() -> ClassRanges:
    return ClassRanges(
        IdLayout(50, 4, 6), ((10, 20), (22, 30)), audio_start=5, audio_end=6, eot=3, styles=(7, 20)
    )


@pytest.fixture(scope="session")
def grammar(ranges) -> Grammar:
    return Grammar(ranges, PUBLIC_RATIOS, CAPS)
