"""The conformance suite of knowledge bases."""

import dataclasses
from typing import Any, get_args

from palaver import DEFAULT_COLLECTION, Document, KnowledgeBase, Passage, SearchByMeaning, SearchWay

CATS = Document(id="/docs/cats.md", name="cats.md", title="Cats", text="Cats sleep all afternoon.")
DOGS = Document(id="https://a.example/dogs", title="Dogs", text="Dogs bark every evening.")
NEWER = Document(id=CATS.id, name="cats.md", title="Cats", text="Cats hunt mice before breakfast.")
LOUD = [
    Document(id=f"loud/{number}", title="Birds", text="Birds sing as birds do.", collection="loud")
    for number in range(60)
]
"""More passages than a search ranks."""
QUIET = [
    Document(id=f"quiet/{number}", title="Fish", text="Fish never sing at all.", collection="quiet")
    for number in range(2)
]
BIRDS = "birds sing"
ODD = "a byte \x00 of “nothing” OR NEAR( * 🚲 怎么退款"


async def check_knowledge_base(base: KnowledgeBase) -> None:
    """Check what every knowledge base promises, with one that is started and empty."""
    assert await base.documents("acme") == ()
    assert await base.search("acme", "cats sleep", 3) == ()
    assert await base.add("acme", []) == 0
    assert await base.add("acme", [CATS, DOGS]) == 2
    await check_documents(base)
    await check_search(base)
    await check_tenants(base)
    await check_collections(base)
    assert await base.add("acme", [NEWER]) == 1, "it replaces the one with the same id"
    assert len(await base.documents("acme")) == 2
    assert await best(base, "acme", "mice breakfast") == NEWER.text
    assert await best(base, "acme", "sleep afternoon") != CATS.text
    assert await base.remove("acme", CATS.id)
    assert not await base.remove("acme", CATS.id)
    assert [info.id for info in await base.documents("acme")] == [DOGS.id]
    assert {info.collection for info in await base.documents("acme")} == {DEFAULT_COLLECTION}
    assert "mice" not in str(await base.search("acme", "mice breakfast", 3))


async def check_documents(base: KnowledgeBase) -> None:
    infos = {info.id: info for info in await base.documents("acme")}
    assert set(infos) == {CATS.id, DOGS.id}
    for document in (CATS, DOGS):
        info = infos[document.id]
        assert (info.title, info.name, info.passages) == (document.title, document.name, 1)
        assert info.digest in ("", document.digest)
        assert info.fingerprint in ("", document.fingerprint)


async def check_search(base: KnowledgeBase) -> None:
    found = await base.search("acme", "cats sleep afternoon", 2)
    assert isinstance(found[0], Passage)
    assert (found[0].document, found[0].title, found[0].number) == ("cats.md", "Cats", 1)
    assert found[0].text == CATS.text
    assert [each.score for each in found] == sorted((p.score for p in found), reverse=True)
    [dogs] = await base.search("acme", "dogs bark", 1)
    assert dogs.document == DOGS.id, "the id, where there is no name"
    assert len(await base.search("acme", "cats dogs sleep bark evening", 1)) == 1
    for query in ("", " \n", ODD, "word " * 5_000):
        await base.search("acme", query, 3)


async def check_tenants(base: KnowledgeBase) -> None:
    assert await base.documents("other") == ()
    assert await base.search("other", "cats sleep", 3) == ()
    assert not await base.remove("other", CATS.id)
    assert await base.add("other", [NEWER]) == 1
    assert await best(base, "acme", "sleep afternoon") == CATS.text
    assert await base.remove("other", NEWER.id)
    assert len(await base.documents("acme")) == 2


async def check_collections(base: KnowledgeBase) -> None:
    await base.add("birds", [*QUIET, *LOUD])
    stored = {info.id: info.collection for info in await base.documents("birds")}
    assert stored == {document.id: document.collection for document in (*QUIET, *LOUD)}
    assert all("loud" in each.document for each in await base.search("birds", BIRDS, 3))
    for wanted in ({"quiet"}, {"quiet", "unknown"}):
        assert await find_ids(base, wanted) == {"quiet/0", "quiet/1"}, "the best of all are others"
    assert len(await find_ids(base, {"quiet", "loud"})) == 3
    assert await find_ids(base, {"unknown"}) == await find_ids(base, set()) == set()
    await base.add("birds", [dataclasses.replace(QUIET[0], collection="loud")])
    assert await find_ids(base, {"quiet"}) == {"quiet/1"}, "adding a document again moves it"
    for document in (*QUIET, *LOUD):
        assert await base.remove("birds", document.id)
    assert await base.documents("birds") == ()


async def check_vectors(base: KnowledgeBase, embed: Any) -> None:
    """Check what every knowledge base with vectors promises. ``embed`` returns those of a length
    and notes the ``texts`` that it gets; "kitten" is near to "cat" for it. Any: of the test."""
    assert isinstance(base, SearchByMeaning)
    base.use_embeddings(embed(5), "axes")
    await base.add("meaning", [CATS, DOGS])
    assert await base.wait_until_embedded()
    assert await best(base, "meaning", "kitten") == CATS.text
    assert await base.search("meaning", "tea", 3) == (), "nothing is related"
    assert await base.search_by("vectors", "meaning", "tea", 3) != ()
    again = embed(5)
    base.use_embeddings(again, "axes")
    await base.add("meaning", [dataclasses.replace(CATS, collection="pets")])
    assert await base.wait_until_embedded()
    assert again.texts == [], "a passage whose text stays keeps its vector"
    [moved] = await base.search_by("vectors", "meaning", "kitten", 3, frozenset(["pets"]))
    assert moved.text == CATS.text
    before = await base.search("meaning", "cats sleep", 2)
    await base.add("other", [dataclasses.replace(CATS, id=f"cat {n}") for n in range(9)])
    assert await base.wait_until_embedded()
    after = await base.search("meaning", "cats sleep", 2)
    assert after == before, "the rarity of words is that of the tenant"
    for name in ("longer", "axes", "axes"):
        base.use_embeddings(embed(6), name)
        await base.add("meaning", [NEWER])
        assert await base.wait_until_embedded()
        assert await best(base, "meaning", "kitten") == NEWER.text


async def find_ids(base: KnowledgeBase, collections: set[str]) -> set[str]:
    """Return the documents that are found in these collections; each way finds no others."""
    wanted = frozenset(collections)
    found = await base.search("birds", BIRDS, 3, wanted)
    by_way: list[Passage] = []
    if isinstance(base, SearchByMeaning):
        for way in get_args(SearchWay):
            by_way += await base.search_by(way, "birds", BIRDS, 3, wanted)
    assert {each.document.partition("/")[0] for each in (*found, *by_way)} <= collections
    return {each.document for each in found}


async def best(base: KnowledgeBase, tenant: str, query: str) -> str:
    """Return the text of the best passage, empty where there is none."""
    return "".join(found.text for found in await base.search(tenant, query, 1))
