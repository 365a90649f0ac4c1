"""Names of files that try to run a script, to leave their folder, or to break the page."""

import itertools

RUN = "window.hacked=1"
ZALGO = "f\u0300\u0301\u0302\u0303\u0489" + "\u035c\u0310" * 60

STEMS = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f'" onclick="{RUN}',
    f"' onmouseover='{RUN}",
    f"javascript:{RUN}",
    f"`${{{RUN}}}`",
    "../../../../etc/passwd",
    "..\\..\\windows\\system32\\cmd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/etc/shadow",
    "C:\\autoexec",
    "\\\\evil.example\\share",
    "file:///etc/passwd",
    "CON",
    "a\x00b",
    'a\r\nContent-Type: text/html\r\n\r\n"<b>',
    "a\nb\tc",
    "\u202egnp.exe",
    "\u2067" * 50 + "isolated",
    "\u200b\u200b\u200b",
    ZALGO,
    "n" * 255,
    "n" * 2_000,
    "漢" * 300,
    "👨‍👩‍👧‍👦" * 60,
    "a b " * 100,
    "-rf *; rm ~",
    "$(touch hacked)",
    ".htaccess",
    "~",
    "**bold** [x](javascript:1) `code`",
    "&lt;b&gt; &#106; &amp;amp;",
    "{{7*7}}",
    "__proto__",
    "א ב ג (1) [2]",
)
ENDINGS = ("", ".txt", ".svg", ".png.html")
NAMES = tuple(stem + ending for stem, ending in itertools.product(STEMS, ENDINGS))
URLS = (
    "data:text/plain,x",
    f"data:text/html,<script>{RUN}</script>",
    f"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='{RUN}'/>",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=",
    f"javascript:{RUN}",
    "https://evil.example/x",
    "//evil.example/x",
    "blob:https://evil.example/1",
)
