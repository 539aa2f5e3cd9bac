"""Class names -> caption -> tokens of each class."""

import re
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ovss.captions import Caption, class_tokens, normalise_names, split_captions

WORDS = st.text(st.sampled_from("abcßéÄ猫-'.,;(){}09"), min_size=1, max_size=6)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
CLASSES = st.lists(NAMES, min_size=1, max_size=8, unique_by=str.casefold)


def pieces(tokenizer, caption, group):
    """The caption's text under each token of a group; map tokens leave out [CLS]."""
    encoded = tokenizer(caption.text, return_offsets_mapping=True)
    return [caption.text[slice(*encoded["offset_mapping"][token + 1])] for token in group]


def test_text_and_spans():
    caption = Caption.of(["cat", "potted plant"])
    assert caption.text == "A picture of cat potted plant"
    assert caption.classes == ("cat", "potted plant")
    assert caption.spans == ((13, 16), (17, 29))


def test_template_and_separator():
    caption = Caption.of(["cat", "dog"], "{}: a photo", separator=", ")
    assert caption.text == "cat, dog: a photo"
    assert caption.spans == ((0, 3), (5, 8))


@given(CLASSES, st.sampled_from(["{}", "A picture of {}", "cat {} dog", "[{{}}] a"]))
def test_spans_hold_the_names(classes, template):
    caption = Caption.of(classes, template)
    assert [caption.text[start:end] for start, end in caption.spans] == classes
    assert caption.text == template.replace("{}", " ".join(classes))


@given(CLASSES, st.data())
def test_a_token_belongs_to_the_class_whose_characters_it_covers(classes, data):
    caption = Caption.of(classes)
    # Any tokenizer: the text cut anywhere, blanks at either end of a token or between two.
    cuts = data.draw(st.sets(st.integers(1, len(caption.text) - 1)))
    bounds = [0, *sorted(cuts), len(caption.text)]
    offsets = [(0, 0), *pairwise(bounds), (0, 0)]
    groups = class_tokens(caption, offsets)
    for group, span in zip(groups, caption.spans, strict=True):
        covered = set(range(*span))
        assert group == tuple(i for i, o in enumerate(offsets) if covered & set(range(*o)))


@given(classes=CLASSES)
@settings(max_examples=50, deadline=None)
def test_groups_are_the_tokens_of_each_name_alone(tiny_blip, classes):
    # The tokenizer splits at blanks, so a name's tokens do not depend on its neighbours.
    (groups,) = tiny_blip.tokenize([Caption.of(classes)]).groups
    ids = tiny_blip.tokenizer(Caption.of(classes).text)["input_ids"][1:]
    for name, group in zip(classes, groups, strict=True):
        alone = tiny_blip.tokenizer(name, add_special_tokens=False)["input_ids"]
        assert [ids[token] for token in group] == alone


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["cargo ship", "car"], [["car", "go", "s", "hi", "p"], ["car"]]),
        (["car", "cargo ship"], [["car"], ["car", "go", "s", "hi", "p"]]),
        (["plant", "potted plant"], [["plant"], ["potted", "plant"]]),
        (["picture", "of a"], [["picture"], ["of", "a"]]),  # words of the template
        (["Café", "naïve-cat", "猫"], [["Ca", "fé"], ["na", "ï", "v", "e", "-", "cat"], ["猫"]]),
        (["cat's bed", "t.v."], [["cat", "'", "s", "bed"], ["t", ".", "v", "."]]),
    ],
)
def test_names_of_several_words_and_word_pieces(tiny_blip, classes, expected):
    caption = Caption.of(classes)
    (groups,) = tiny_blip.tokenize([caption]).groups
    assert [pieces(tiny_blip.tokenizer, caption, group) for group in groups] == expected


def test_blanks_are_normalised():
    assert normalise_names([" potted \t plant\n", "cat"]) == ("potted plant", "cat")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "at least one class name.*empty list"),
        (["cat", " "], "position 1 is empty"),
        ("cat, dog", r"list of names.*write \['cat', 'dog'\]"),
    ],
)
def test_names_that_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        Caption.of(classes)


@pytest.mark.parametrize("classes", [["cat", "dog", "cat"], ["potted plant", "Potted  Plant"]])
def test_a_list_of_classes_has_each_once_but_a_caption_may_have_it_twice(classes, tiny_blip):
    twice = " ".join(classes[-1].split())
    with pytest.raises(ValueError, match=f"{twice!r} occurs twice"):
        normalise_names(classes)
    first, *_, last = tiny_blip.tokenize([Caption.of(classes)]).groups[0]
    assert len(first) == len(last)
    assert not set(first) & set(last)


@pytest.mark.parametrize("template", ["A picture", "{} and {}"])
def test_a_template_takes_the_names_once(template):
    with pytest.raises(ValueError, match=re.escape(f"exactly once, but got {template!r}")):
        Caption.of(["cat"], template)


def test_a_name_without_tokens_is_refused(tiny_blip):
    with pytest.raises(ValueError, match=r"'\\u200b' to give at least one token"):
        tiny_blip.tokenize([Caption.of(["cat", "\u200b"])])


@given(CLASSES, st.integers(4, 40))
def test_split_captions_cover_the_classes_in_order(classes, max_length):
    words = "A picture of {}"
    assume(all(len(words.format(name)) <= max_length + 15 for name in classes))

    def length(text):
        return len(text) - 15  # characters instead of tokens

    captions = split_captions(classes, length, max_length)
    assert [name for caption in captions for name in caption.classes] == classes
    assert all(length(caption.text) <= max_length for caption in captions)
    if length(Caption.of(classes).text) <= max_length:
        assert captions == [Caption.of(classes)]
    sizes = [len(caption.classes) for caption in captions]
    assert max(sizes) - min(sizes) <= 1


def test_a_name_that_is_too_long_is_named():
    with pytest.raises(ValueError, match="'a b c d e' alone takes 8; shorten it"):
        split_captions(["a", "a b c d e", "c"], lambda text: len(text.split()), 7)


def test_long_lists_are_split_by_the_models_positions(tiny_blip, monkeypatch):
    classes = [f"{size} {name}" for size in ("small", "large") for name in ("cat", "dog", "bus")]
    monkeypatch.setattr(tiny_blip, "max_tokens", 10)  # 5 beside the names
    captions = tiny_blip.captions(classes)
    assert [caption.classes for caption in captions] == [
        tuple(classes[start : start + 2]) for start in (0, 2, 4)
    ]
    assert tiny_blip.tokenize(captions).input_ids.shape == (3, 9)
    with pytest.raises(ValueError, match=r"at most 10 tokens, but got one of 17.*`vlm.captions"):
        tiny_blip.tokenize([Caption.of(classes)])
