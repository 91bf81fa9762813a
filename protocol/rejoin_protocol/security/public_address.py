"""Which IP addresses are public: the check before connecting to a host that a user names (SSRF protection).

Never resolves a name. Check the address of the actual connection; a name may resolve to another address the
next time (DNS rebinding). Stricter than `is_global`: IPv4-mapped and NAT64 addresses are judged by their IPv4
address; other embeddings of IPv4 addresses are refused.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

type Address = IPv4Address | IPv6Address

NAT64 = IPv6Network("64:ff9b::/96")
TREATED_AS_PRIVATE = (
    IPv6Network("::/96"),  # IPv4-compatible, long deprecated
    IPv6Network("2001::/32"),  # Teredo
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("64:ff9b:1::/48"),  # NAT64 of a local network
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv4Network("168.63.129.16/32"),  # services of the host of a virtual machine in Azure
)


def is_public(address: Address) -> bool:
    """Whether the address is reachable from the public internet."""
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
        and not any(address in network for network in TREATED_AS_PRIVATE)
    )
