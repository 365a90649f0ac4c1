"""HTML with the few tags that chat platforms take."""

import html

from palaver.platforms.rendering import Dialect


class HtmlDialect(Dialect):
    """Bold, italic, struck out, code and links; everything else as text."""

    bullet = "•"
    has_tables = False
    has_rules = False
    quote_mark = "│ "

    def text(self, text: str) -> str:
        return html.escape(text, quote=False)

    def code(self, text: str) -> str:
        return html.escape(text, quote=False)

    def strong(self, text: str) -> str:
        return f"<b>{text}</b>"

    def emphasis(self, text: str) -> str:
        return f"<i>{text}</i>"

    def strikethrough(self, text: str) -> str:
        return f"<s>{text}</s>"

    def code_span(self, text: str) -> str:
        return f"<code>{self.code(text)}</code>"

    def code_block(self, content: str, language: str) -> str:
        kind = f' class="language-{html.escape(language)}"' if language else ""
        return f"<pre><code{kind}>{self.code(content)}</code></pre>"

    def link(self, text: str, url: str) -> str:
        return f'<a href="{html.escape(url)}">{text}</a>'

    def autolink(self, url: str) -> str:
        return self.link(self.text(url), url)

    def heading(self, text: str, level: int) -> str:
        return self.strong(text)
