"""The addresses from which a remote file may be fetched."""

from ipaddress import ip_address

import pytest

from rejoin_adapters.process.guarded_http import is_fetchable

PRIVATE = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 192.0.0.1 192.0.2.1
192.88.99.1 192.168.1.1 198.18.0.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1
::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: fc00::1 fd00:ec2::254
fe80::1 fec0::1 ff02::1
"""
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.feature("F48")
@pytest.mark.parametrize("address", PRIVATE.split())
def test_what_is_not_the_internet_is_refused(address: str) -> None:
    assert not is_fetchable(ip_address(address), 443)


@pytest.mark.feature("F48")
@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_allowed_on_the_ports_of_the_web_alone(address: str) -> None:
    assert [is_fetchable(ip_address(address), port) for port in (80, 443, 22, 8080, 0)] == [True, True] + [
        False
    ] * 3
