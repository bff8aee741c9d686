import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from aqaa.errors import BundleError, BundleUnsupported, InvalidToken
from aqaa.tokens import IdLayout, TextVocabulary, TokenClass, class_ranges

MARKERS = ["<s>", "</s>", "<unk>", "<|EOT|>", "<|BOT|>", "<audio_start>", "<audio_end>", "<slow>", "<0x41>"]
texts = st.lists(
    st.sampled_from([*MARKERS, "cat", " ", "é", "😀", "\n", "\u2581"]) | st.text(max_size=4)
).map("".join)


def controls(vocabulary) -> set[int]:
    text = {i for low, high in vocabulary.text_ranges for i in range(low, high)}
    return set(range(vocabulary.size)) - text


@given(texts)
def test_no_text_becomes_a_control_piece(vocabulary, text):
    for prefix in (True, False):
        assert not controls(vocabulary).intersection(vocabulary.encode(text, prefix=prefix))


@given(texts)
def test_text_survives_its_ids(vocabulary, text):
    shown = text.replace("\u2581", " ")
    assert vocabulary.decode(vocabulary.encode(text)) == shown
    assert vocabulary.decode(vocabulary.encode(text, prefix=False)) == shown.removeprefix(" ")


@given(texts)
def test_decoding_is_sentencepieces_own(vocabulary, model, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == sentencepiece.SentencePieceProcessor(model_proto=model).decode(ids)


@given(texts)
def test_ordinary_text_has_the_ids_of_the_plain_model(vocabulary, model, text):
    if "<" not in text:
        plain = sentencepiece.SentencePieceProcessor(model_proto=model)
        assert vocabulary.encode(text) == plain.encode(text)


@given(texts)
def test_streamed_text_is_the_whole_text_and_never_half_a_character(vocabulary, text):
    detokenizer, shown = vocabulary.detokenizer(), ""
    ids = vocabulary.encode(text)
    for token_id in ids:
        shown += detokenizer.push([token_id])
        assert vocabulary.decode(ids).startswith(shown)
    assert shown == vocabulary.decode(ids)
    assert detokenizer.finish() == ""


def test_bytes_wait_for_their_character(vocabulary):
    euro = [vocabulary.piece_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    detokenizer = vocabulary.detokenizer()
    assert [detokenizer.push([token_id]) for token_id in euro] == ["", "", "€"]
    assert detokenizer.push(euro[:2]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_control_pieces_show_nothing_and_keep_no_space(vocabulary):
    ids = [vocabulary.piece_id("<slow>"), *vocabulary.encode("the cat"), vocabulary.piece_id("<|EOT|>")]
    assert vocabulary.decode(ids) == "the cat"


def test_text_goes_on_without_a_prefix(vocabulary):
    dog, cat = vocabulary.encode("dog"), vocabulary.encode("cat", prefix=False)
    assert vocabulary.decode(dog + cat) == "dogcat"
    assert vocabulary.decode(dog + vocabulary.encode("cat")) == "dog cat"


def test_a_normaliser_cannot_make_a_marker(train_model):
    folding = TextVocabulary(train_model(normalization_rule_name="nmt_nfkc"))
    assert not controls(folding).intersection(folding.encode("\uff1caudio_end\uff1e"))
    assert "<audio_end>" in folding.decode(folding.encode("\uff1caudio_end\uff1e"))


def test_a_model_without_dummy_prefix_strips_no_space(train_model):
    vocabulary = TextVocabulary(train_model(add_dummy_prefix=False))
    assert vocabulary.decode(vocabulary.encode(" cat")) == " cat"
    assert vocabulary.encode("cat") == vocabulary.encode("cat", prefix=False)


def test_user_defined_pieces_that_are_no_markers_stay_text(vocabulary):
    assert vocabulary.piece_id("\n") in vocabulary.encode("a\nb")


def test_named_controls_are_taken_out_of_text(train_model):
    model = train_model(user_defined_symbols=["|END|", "<audio_end>"])
    assert TextVocabulary(model).piece_id("|END|") in TextVocabulary(model).encode("x|END|")
    safe = TextVocabulary(model, controls=["|END|"])
    assert safe.piece_id("|END|") not in safe.encode("x|END|")
    assert safe.decode(safe.encode("x|END|")) == "x|END|"
    with pytest.raises(BundleUnsupported, match="plain text"):
        TextVocabulary(model, controls=["\u2581"])
    with pytest.raises(BundleError, match="<END>"):
        TextVocabulary(model, controls=["<END>"])


def test_a_missing_piece_is_named(vocabulary):
    with pytest.raises(BundleError, match="<audio_middle>"):
        vocabulary.piece_id("<audio_middle>")


def test_class_ranges_resolve_markers_by_name(vocabulary):
    layout = IdLayout(vocabulary.size)
    ranges = class_ranges(vocabulary, layout, eot="<|EOT|>", styles=["<slow>"])
    assert ranges.class_of(vocabulary.piece_id("<audio_start>")) is TokenClass.AUDIO_START
    assert ranges.class_of(vocabulary.piece_id("<audio_end>")) is TokenClass.AUDIO_END
    assert ranges.class_of(vocabulary.piece_id("<|EOT|>")) is TokenClass.EOT
    assert ranges.class_of(vocabulary.piece_id("<slow>")) is TokenClass.STYLE
    assert ranges.class_of(vocabulary.piece_id("\n")) is TokenClass.TEXT
    for name in ("<unk>", "<s>", "</s>", "<|BOT|>"):
        assert ranges.class_of(vocabulary.piece_id(name)) is None
    with pytest.raises(BundleError, match="<loud>"):
        class_ranges(vocabulary, layout, eot="<|EOT|>", styles=["<loud>"])
    with pytest.raises(BundleError, match="audio_base"):
        class_ranges(vocabulary, IdLayout(vocabulary.size - 1), eot="<|EOT|>")


def test_half_a_surrogate_pair_is_refused(vocabulary):
    with pytest.raises(InvalidToken, match="character 1"):
        vocabulary.encode("a\ud800")


def test_an_id_outside_the_vocabulary_is_refused(vocabulary):
    with pytest.raises(InvalidToken, match=f"{vocabulary.size}"):
        vocabulary.decode([vocabulary.size])


@pytest.mark.parametrize("junk", [b"", b"not a model", b"\x0a\xff", b"\x0a\x7f", b"\x0b"])
def test_junk_is_no_model(junk):
    with pytest.raises(BundleUnsupported, match="expected a SentencePiece model"):
        TextVocabulary(junk)


def test_a_file_that_is_not_there_is_named(tmp_path, model):
    with pytest.raises(BundleError, match=r"tokenizer\.model"):
        TextVocabulary.load(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert TextVocabulary.load(tmp_path / "tokenizer.model").piece_id("<|EOT|>") == 3
