"""Where a page reaches the gateway, by the headers of its request."""

import pytest
from aiohttp.test_utils import make_mocked_request

from rejoin_gateway.http.cors import address_for_page


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    ("host", "origin", "address"),
    [
        ("chat.example", None, None),
        ("chat.example", "http://chat.example", None),
        ("chat.example", "https://chat.example", None),
        ("chat.example:8080", "http://chat.example", "http://chat.example:8080"),
        ("chat.example", "http://app.example", "http://chat.example"),
        ("chat.example", "https://app.example", "https://chat.example"),
        ("localhost:8080", "https://app.example", "http://localhost:8080"),
        ("[::1]:8080", "null", "http://[::1]:8080"),
        ('x"y', "http://app.example", None),
        ("a/b", "http://app.example", None),
        ("user@host", "http://app.example", None),
    ],
)
def test_a_page_of_another_origin_has_called_the_host(
    host: str, origin: str | None, address: str | None
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    assert address_for_page(make_mocked_request("GET", "/", headers=headers)) == address
