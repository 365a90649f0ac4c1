"""Text of HTML pages as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_plugins.knowledge.html_pages import TooComplex, read_fragment, read_page
from palaver_plugins.knowledge.markdown_blocks import parse_blocks
from palaver_plugins.knowledge.passages import split_passages


@pytest.mark.parametrize(
    ("page", "title", "text"),
    [
        ("<title>A</title><h1>B</h1><p>c<p>d", "A", "# B\n\nc\n\nd"),
        ("<head><title>A</title><body><p>c<div>d", "A", "c\n\nd"),
        ("<html><title>A</title>text<br>more", "A", "text\nmore"),
        ("plain", "", "plain"),
        ("<p>a &lt;b&gt; &eacute;&#x41;&nbsp;z", "", "a <b> éA z"),
    ],
)
def test_omitted_tags_are_filled_in(page: str, title: str, text: str) -> None:
    assert read_page(page) == (title, text)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<body><svg><title>Icon</title></svg><h1>Page</h1>", "Page"),
        ("<head><title>Page</title></head><svg><title>Icon</title></svg>", "Page"),
        ("<svg><title>Icon</title></svg><title>Page</title><h1>Other</h1>", "Page"),
        ("<template><title>No</title></template><h1>The <em>page</em></h1>", "The page"),
        ("<title> </title><h1><svg><title>Icon</title></svg></h1><h1>Page</h1>", "Page"),
    ],
)
def test_the_title_is_that_of_the_page(page: str, title: str) -> None:
    assert read_page(page)[0] == title


@pytest.mark.parametrize(
    "secret",
    [
        "<script>x = 'secret'</script>",
        "<style>secret</style>",
        "<noscript><p>secret</p></noscript>",
        "<template><p>secret</p></template>",
        "<!-- secret -->",
        "<p hidden>secret</p>",
        "<p style='color: red; display:none'>secret</p>",
        "<dialog>secret</dialog>",
        "<nav>secret</nav>",
        "<div role=navigation>secret</div>",
        "<footer>secret</footer>",
        "<svg><text>secret</text></svg>",
        "<iframe>secret</iframe>",
        "<head><noscript><img src=x alt=secret></noscript></head>",
    ],
)
def test_what_nobody_reads_is_left_out(secret: str) -> None:
    page = f"{secret}<p>text</p>"
    assert read_page(page)[1] == "text"


def test_a_main_part_stands_for_the_page() -> None:
    page = "<div>menu</div><main><h1>Top</h1><p>words</p><footer>own</footer></main><div>ads</div>"
    assert read_page(page)[1] == "# Top\n\nwords\n\nown"
    assert read_page("<main role=main>a</main><p>ads<div role=main>b</div>")[1] == "a\n\nb"
    assert read_page("<main hidden>x</main><main> </main><p>words</p>")[1] == "words"


def test_a_tab_that_is_not_chosen_is_read() -> None:
    page = "<div role=tabpanel><p>Linux</p></div><div role=tabpanel hidden><p>Windows</p></div>"
    assert read_page(page)[1] == "Linux\n\nWindows"


def test_a_page_of_nothing_but_navigation_has_a_text() -> None:
    assert read_page("<nav><ul><li><a href=a>First<li>Second</ul></nav>")[1] == "- First\n- Second"
    assert read_page("<footer>Imprint</footer>")[1] == "Imprint"
    assert read_page("<div role=navigation>Home</div><nav hidden>x</nav>")[1] == "Home"
    assert read_page("<nav hidden>x</nav><script>y</script>")[1] == ""


def test_lists_keep_their_form() -> None:
    page = "<p>Do:<ol start=3><li>three<ul><li>a<li>b</ul><li><p>four<p>more</ol>end"
    text = "Do:\n\n3. three\n   - a\n   - b\n4. four\n\n   more\n\nend"
    assert read_page(page)[1] == text
    assert read_page("<dl><dt>Term<dd>one<dd>two</dl>")[1] == "Term\n\n: one\n: two"


def test_code_in_nested_lists_is_a_fence_of_the_item() -> None:
    page = "<ol><li>a<ol><li>b<pre>x\n\ny</pre></ol><li>c<ul><li>d<pre>z</pre></ul></ol>"
    blocks = list(parse_blocks(read_page(page)[1]))
    assert [block.content for block in blocks if block.kind == "fence"] == ["x\n\ny\n", "z\n"]
    assert not any(block.kind == "code" for block in blocks)


def test_preformatted_text_becomes_a_fence() -> None:
    assert read_page("<xmp>a <b>b\nc</xmp>")[1] == "```\na <b>b\nc\n```"
    assert read_page("<pre>\n  a\n    <b>b</b>\n\nc</pre>")[1] == "```\n  a\n    b\n\nc\n```"
    assert read_page("<pre># x ``` y<br>z</pre>")[1] == "````\n# x ``` y\nz\n````"
    assert read_page("<pre> \n </pre>")[1] == ""


def test_tables_become_markdown_tables() -> None:
    page = """<table><caption>Prices</caption>
      <thead><tr><th>Item<th>Price</thead>
      <tr><td>Tea<td>2|3 <br>EUR
      <tr><td rowspan=2>Milk<td>1 EUR
      <tr><td><ul><li>free<li>small</ul>
      <tr><td colspan=2>all</table>"""
    assert read_page(page)[1] == (
        "Prices\n\n| Item | Price |\n| --- | --- |\n| Tea | 2\\|3 EUR |\n| Milk | 1 EUR |\n"
        "| Milk | free small |\n| all |  |"
    )


def test_one_line_of_code_is_a_cell() -> None:
    page = "<table><tr><th>Site<th>URL<tr><td>a<td><pre>https://a.example\n</pre></table>"
    assert read_page(page)[1] == "| Site | URL |\n| --- | --- |\n| a | https://a.example |"


@pytest.mark.parametrize("sign", ["¶", "#", "\u200b", "🔗", "§ "])
def test_the_sign_that_links_to_a_heading_is_left_out(sign: str) -> None:
    assert read_page(f"<h1>Name<a href='#name'>{sign}</a></h1>") == ("Name", "# Name")
    assert read_page("<h1>C#</h1><p><a href='#c'>C#</a>")[1] == "# C#\n\nC#"


def test_a_table_for_the_layout_is_no_table() -> None:
    page = "<table><tr><td><h2>Menu</h2><td><table><tr><td>a<td>b</table></table>"
    assert read_page(page)[1] == "## Menu\n\n| a | b |\n| --- | --- |"
    assert read_page("<table><tr><td>one<tr><td>two</table>")[1] == "one\n\ntwo"
    assert read_page("<table><tr><td>1<td><pre>a\nb</pre></table>")[1] == "1\n\n```\na\nb\n```"


def test_frames_cdata_and_xhtml_hide_no_text() -> None:
    assert read_page("<frameset><noframes><p>words</noframes></frameset>")[1] == "words"
    assert read_page("<p><![CDATA[a & b]]></p>")[1] == "a & b"
    page = "<?xml version='1.0'?><html><head><script src='x'/><title/></head><p>words</p></html>"
    assert read_page(page)[1] == "words"
    assert read_page("<base href=/x/><p>a <a href=y>link</a><img alt='a cat'>")[1] == "a link a cat"


def test_ruby_annotations_do_not_split_a_word() -> None:
    assert read_page("<ruby>漢<rp>(</rp><rt>かん</rt>字<rt>じ</rt></ruby>")[1] == "漢字"


def test_a_raised_number_is_not_part_of_the_number_before() -> None:
    assert read_page("<p>10<sup>3</sup> m<sup>2</sup>")[1] == "10^3 m2"
    assert read_page("<h1>In 2020<sup>1</sup></h1>") == ("In 2020^1", "# In 2020^1")


def test_text_is_not_read_as_markdown() -> None:
    [passage] = split_passages(read_page("<p># no heading<br>```<br>===<br>end</p>")[1])
    assert passage.section == ""
    assert "end" in passage.text


def test_a_page_that_takes_too_long_is_refused() -> None:
    with pytest.raises(TooComplex, match="nested more than"):
        read_page("<div>" * 2_000)
    with pytest.raises(TooComplex, match="more than 2_000 attributes"):
        read_page("<a " + " ".join(f"x{n}=1" for n in range(5_000)) + ">")
    assert read_page("<p>x" * 5_000)[1].count("x") == 5_000
    assert read_page('<p><img alt="x" src="data:,' + "a b " * 5_000 + '">')[1] == "x"


PARTS = st.sampled_from(
    "<p> <div> </div> <table> </table> <tr> <td> <th> <ul> </ul> <li> <pre> </pre> <br> <h1> </h1>"
    " <b> </b> <svg> </svg> <title> </title> <select> <option> <main> <!-- --> <ol> <dd> <caption>"
    " <img> <![CDATA[ ]]> <frameset> <template> &amp; # ``` | a é 漢 \0 <math> <a> </a> <form>"
    " <body> <html>".split()
)


@given(st.lists(PARTS, max_size=60))
def test_any_page_is_read(parts: list[str]) -> None:
    page = " ".join(parts)
    title, text = read_page(page)
    assert "\0" not in title + text
    split_passages(text)
    read_fragment(page)


WORDS = st.text(st.sampled_from("abcé漢 |`#*_\\"), min_size=1, max_size=30)


@given(st.lists(st.lists(WORDS, min_size=2, max_size=4), min_size=1, max_size=30))
def test_the_text_of_a_cell_is_in_a_passage(rows: list[list[str]]) -> None:
    table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    text = read_page(f"<table>{table}</table>")[1]
    passages = [passage.text for passage in split_passages(text)]
    for cell in (cell for row in rows for cell in row):
        shown = " ".join(cell.replace("|", "\\|").split())
        assert any(shown in passage for passage in passages)
