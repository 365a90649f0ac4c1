"""Replies as HTML: well formed, with few tags, and nothing of the model's becomes markup."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from tests.server.platforms.test_rendering import ANYTHING
from tests.skills.markdown_strategies import markdown

from palaver.platforms import HtmlDialect, render

TAGS = {"b", "i", "s", "a", "code", "pre"}


class Reader(HTMLParser):
    """Reads text, and refuses tags that are unknown or not closed in their order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.links: list[str | None] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        self.open.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl!r}")


def test_what_it_writes() -> None:
    source = "# Leave\n\n**30** *days* ~~gone~~ of `a<b`\n\n- [the book](https://x.y/?a=1&b=2)"
    assert render(source, HtmlDialect()) == (
        "<b>Leave</b>\n\n<b>30</b> <i>days</i> <s>gone</s> of <code>a&lt;b</code>\n\n"
        '• <a href="https://x.y/?a=1&amp;b=2">the book</a>'
    )
    assert render("```py\nx < 1\n```", HtmlDialect()) == (
        '<pre><code class="language-py">x &lt; 1</code></pre>'
    )


@given(st.one_of(ANYTHING, markdown()))
def test_the_html_is_well_formed(source: str) -> None:
    reader = Reader(render(source, HtmlDialect()))
    for link in reader.links:
        assert link is not None
        assert link.startswith(("http://", "https://", "mailto:"))


def test_tags_of_the_text_are_text() -> None:
    source = '<script>alert(1)</script> <b onclick="x">bold</b> &lt;i&gt;'
    reader = Reader(render(source, HtmlDialect()))
    assert "<script>" in reader.text
    assert "<i>" in reader.text
