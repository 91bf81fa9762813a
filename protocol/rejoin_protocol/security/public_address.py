"""Which addresses are anybody's on the internet: what is asked before we connect to where somebody else says.

Owns the answer, and never resolves a name: ask it of the address that is connected to, or a name that changes
its mind leads inside. Stricter than `is_global`: addresses that stand for others are judged as those.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

type Address = IPv4Address | IPv6Address

NAT64 = IPv6Network("64:ff9b::/96")
NOT_GLOBAL = (
    IPv6Network("::/96"),  # IPv4-compatible, long deprecated
    IPv6Network("2001::/32"),  # Teredo
    IPv6Network("2002::/16"),  # 6to4
    IPv4Network("192.88.99.0/24"),  # its relays
)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could connect there."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        if address.is_site_local:
            return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address in network for network in NOT_GLOBAL)
    )
