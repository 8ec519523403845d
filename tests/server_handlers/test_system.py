"""What the server tells of itself."""

import httpx


async def test_versions(client: httpx.AsyncClient) -> None:
    versions = (await client.get("")).json()["versions"]
    assert {"samovar", "python", "jupyter_server"} <= set(versions)


async def test_diagnosis(client: httpx.AsyncClient) -> None:
    told = (await client.get("/diagnosis")).json()
    (folder,) = told["folders"]
    assert folder["writable"]
    assert folder["free_bytes"] > 0
    assert told["default_model"] == "demo"
    assert told["spare"] == "none"
