"""The conformance suite of knowledge bases."""

from palaver import Document, KnowledgeBase, Passage

CATS = Document(id="/docs/cats.md", name="cats.md", title="Cats", text="Cats sleep all afternoon.")
DOGS = Document(id="https://a.example/dogs", title="Dogs", text="Dogs bark every evening.")
NEWER = Document(id=CATS.id, name="cats.md", title="Cats", text="Cats hunt mice before breakfast.")
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
    assert await base.add("acme", [NEWER]) == 1, "it replaces the one with the same id"
    assert len(await base.documents("acme")) == 2
    assert await best(base, "acme", "mice breakfast") == NEWER.text
    assert await best(base, "acme", "sleep afternoon") != CATS.text
    assert await base.remove("acme", CATS.id)
    assert not await base.remove("acme", CATS.id)
    assert [info.id for info in await base.documents("acme")] == [DOGS.id]
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


async def best(base: KnowledgeBase, tenant: str, query: str) -> str:
    """Return the text of the best passage, empty where there is none."""
    return "".join(found.text for found in await base.search(tenant, query, 1))
