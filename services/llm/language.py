"""The language of a bundle: text, ids, prompts and grammar, as every request shares them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from aqaa.bundle import Bundle, Manifest
from aqaa.tokens.grammar import Grammar
from aqaa.tokens.groups import Ratios
from aqaa.tokens.ids import IdLayout
from aqaa.tokens.prompt import PromptBuilder
from aqaa.tokens.text import TextVocabulary, class_ranges


@dataclass(frozen=True, eq=False)
class Language:
    """Read from the manifest once; holds nothing of any request.

    Attributes:
        digest: names the bundle, 64 hexadecimal digits.
        style_ids: style → the id of its piece; ``styles`` is the reverse.
    """

    manifest: Manifest
    digest: str
    layout: IdLayout
    ratios: Ratios
    text: TextVocabulary
    grammar: Grammar
    prompts: PromptBuilder
    style_ids: dict[str, int]
    styles: dict[int, str]

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Raises BundleError when the text vocabulary cannot be read or lacks a piece."""
        manifest = bundle.manifest
        pieces, layout, ratios = manifest.pieces, manifest.layout.ids, manifest.layout.ratios
        marks = (pieces.bos, pieces.bot, pieces.eot, pieces.audio_start, pieces.audio_end)
        controls = (*marks, *pieces.styles.values())
        text = TextVocabulary.load(bundle.path(manifest.text.file), controls=controls)
        ranges = class_ranges(
            text,
            layout,
            eot=pieces.eot,
            audio_start=pieces.audio_start,
            audio_end=pieces.audio_end,
            styles=tuple(pieces.styles.values()),
        )
        style_ids = {style: text.piece_id(piece) for style, piece in pieces.styles.items()}
        return cls(
            manifest=manifest,
            digest=bundle.digest,
            layout=layout,
            ratios=ratios,
            text=text,
            grammar=Grammar(ranges, ratios, manifest.caps.caps),
            prompts=PromptBuilder(manifest.template, text, layout),
            style_ids=style_ids,
            styles={token_id: style for style, token_id in style_ids.items()},
        )

    def group_ids(self, linguistic: Sequence[int], semantic: Sequence[int]) -> list[int]:
        """Codes of whole groups, their count and range already checked, as ids in the order of the prompt."""
        pair, triple = self.ratios.linguistic, self.ratios.semantic
        words, sounds = self.layout.linguistic_range[0], self.layout.semantic_range[0]
        ids: list[int] = []
        for group in range(len(linguistic) // pair if pair else len(semantic) // triple):
            ids += (words + code for code in linguistic[group * pair : (group + 1) * pair])
            ids += (sounds + code for code in semantic[group * triple : (group + 1) * triple])
        return ids

    def group_codes(self, ids: Iterable[int]) -> tuple[list[int], list[int]]:
        """Audio ids of whole groups as (linguistic codes, semantic codes)."""
        words, sounds = self.layout.linguistic_range[0], self.layout.semantic_range[0]
        linguistic: list[int] = []
        semantic: list[int] = []
        for token_id in ids:
            if token_id < sounds:
                linguistic.append(token_id - words)
            else:
                semantic.append(token_id - sounds)
        return linguistic, semantic
