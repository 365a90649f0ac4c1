"""Generated Markdown for property tests."""

from hypothesis import strategies as st

WORDS = st.lists(
    st.sampled_from(
        ["cat", "Über", "niño", "very", "rain.", "你好。", "it's", "(so)", "end!", "a"]
    ),
    min_size=1,
    max_size=6,
).map(" ".join)
SECRETS = (
    "`SECRET_CODE`",
    "https://secret.example/SECRET?x=1",
    "{SECRET}",
    "{{SECRET}}",
    "${SECRET}",
    "%(SECRET)s",
    "<SECRET>",
    "SECRET@secret.example",
    "&SECRET;",
    "SECRET_name",
)
"""Spans that no engine may see; the word SECRET is in each."""
INLINE = st.lists(
    st.one_of(
        WORDS,
        st.sampled_from(SECRETS),
        WORDS.map(lambda words: f"**{words}**"),
        WORDS.map(lambda words: f"[{words}](https://x.example/SECRET)"),
    ),
    min_size=1,
    max_size=5,
).map(" ".join)
BLOCKS = st.one_of(
    INLINE,
    INLINE.map(lambda text: f"## {text}"),
    st.lists(INLINE, min_size=1, max_size=3).map(lambda items: "\n".join(f"- {i}" for i in items)),
    INLINE.map(lambda text: f"> {text}"),
    st.tuples(INLINE, INLINE).map(lambda row: f"| {row[0]} | {row[1]} |\n|---|---|"),
    WORDS.map(lambda text: f"```py\nSECRET = '{text}'\n\n```"),
    WORDS.map(lambda text: f"~~~\nSECRET {text}\n~~~"),
    st.just("---"),
)


def markdown() -> st.SearchStrategy[str]:
    """Documents of a few blocks, with some odd white space between them."""
    gap = st.sampled_from(["\n\n", "\n\n\n", "\n \n"])
    return st.lists(st.tuples(BLOCKS, gap), min_size=1, max_size=6).map(
        lambda parts: "".join(block + after for block, after in parts)
    )
