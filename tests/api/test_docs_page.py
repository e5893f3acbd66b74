"""The page of the API works without the internet."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from tests.api.conftest import Api


async def test_the_page_takes_all_it_needs_from_this_server(api: Api) -> None:
    async with api.client() as http:
        page = (await http.get("/", follow_redirects=True)).raise_for_status()
        assert page.url.path == "/docs"
        needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(needed) >= 3  # script, style, icon
        for address in needed:
            assert not re.match(r"(https?:)?//", address), address
            assert len((await http.get(urljoin("/docs", address))).raise_for_status().content) > 1000
