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
    "``SECRET ` x``",
    "https://secret.example/SECRET?x=1",
    "<https://secret.example/SECRET>",
    "{SECRET}",
    "{{ SECRET }}",
    "${SECRET}",
    "$SECRET_VARIABLE",
    "%(SECRET)s",
    ":SECRET",
    ":SECRET_smile:",
    "<SECRET>",
    '<b title="SECRET">',
    "<code>SECRET x</code>",
    "<!-- SECRET -->",
    "SECRET@secret.example",
    "@SECRET",
    "&SECRET;",
    "SECRET_name",
    "$SECRET = x^2$",
    "[^SECRET]",
    "\\(SECRET = 1\\)",
    "[[SECRET]]",
    "<a-b :SECRET='x' @click=\"SECRET\" {...x}>",
    "{SECRET, plural, =0 {0} other {# SECRET_x}}",
)
"""Spans that no engine may see; the word SECRET is in each."""
INLINE = st.lists(
    st.one_of(
        WORDS,
        st.sampled_from(SECRETS),
        WORDS.map(lambda words: f"**{words}**"),
        WORDS.map(lambda words: f"[{words}](https://x.example/SECRET)"),
        WORDS.map(lambda words: f"![{words}](SECRET.png 'SECRET')"),
        WORDS.map(lambda words: f"[{words}][SECRET]"),
        st.sampled_from(["\\*", "\\_", "*", "~~", "2 * 3", "5 %", "a < b"]),
    ),
    min_size=1,
    max_size=5,
).map(" ".join)
LINES = st.lists(INLINE, min_size=1, max_size=3)
BREAKS = st.sampled_from(["\n", "  \n", "\\\n"])
BLOCKS = st.one_of(
    st.tuples(INLINE, BREAKS, INLINE).map("".join),
    INLINE.map(lambda text: f"## {text}"),
    INLINE.map(lambda text: f"{text}\n==="),
    LINES.map(lambda items: "\n".join(f"- {item}" for item in items)),
    LINES.map(lambda items: "\n".join(f"{n}. [x] {item}" for n, item in enumerate(items, 1))),
    LINES.map(lambda items: "- " + "\n\n  ".join(items)),
    LINES.map(lambda lines: "\n".join(f"> {line}" for line in lines)),
    LINES.map(lambda lines: "\n".join(f"> > {line}" for line in lines)),
    st.tuples(INLINE, INLINE).map(
        lambda row: f"| {row[0]} | {row[1]} |\n|---|---|\n| a | {row[0]}|"
    ),
    st.tuples(WORDS, INLINE).map(
        lambda row: f"{row[0]} | {row[1]}\n:--|--:\n{row[1]} | `SECRET\\|`"
    ),
    WORDS.map(lambda text: f"```py\nSECRET = '{text}'\n\n```"),
    WORDS.map(lambda text: f"~~~\nSECRET {text}\n~~~"),
    WORDS.map(lambda text: f"- item\n\n      SECRET {text}"),
    WORDS.map(lambda text: f"<pre>\nSECRET {text}\n\nSECRET\n</pre>"),
    WORDS.map(lambda text: f"<div class='SECRET'>\n<p>{text}</p>\n</div>"),
    WORDS.map(lambda text: f"<script>\nSECRET('{text}')\n</script>"),
    WORDS.map(lambda text: f"$$\nSECRET {text}\n$$"),
    INLINE.map(lambda text: f"[^SECRET]: {text}"),
    st.sampled_from(["---", "<!-- SECRET\n\nx -->"]),
)
FRONT_MATTER = st.sampled_from(
    [
        "",
        "---\ntitle: SECRET\n\nx: 1\n---\n",
        "\ufeff---\nSECRET: x\n...\n",
        "+++\nx = 'SECRET'\n+++\n",
    ]
)

DEFINITION = "[SECRET]: https://x.example/SECRET 'SECRET'\n"


def markdown() -> st.SearchStrategy[str]:
    """Documents of a few blocks, with some odd white space between them and any line ends."""
    gap = st.sampled_from(["\n\n", "\n\n\n", "\n \n"])
    blocks = st.lists(st.tuples(BLOCKS, gap).map("".join), min_size=1, max_size=6).map("".join)
    end = st.sampled_from(["\n", "\r\n", "\r"])
    return st.tuples(FRONT_MATTER, blocks, end).map(
        lambda parts: f"{parts[0]}{parts[1]}{DEFINITION}".replace("\n", parts[2])
    )
