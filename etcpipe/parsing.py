"""What the packet parser is asked for beyond a packet's own five-tuple."""

from etcpipe.errors import UsageError
from etcpipe.layout import CONSTANTS

KEY_PARTS = ("vlan", "tunnel")


def parse_bits(decap: bool = False, key_vlan: bool = False, key_tunnel: bool = False) -> int:
    """Return the PARSE_ bits of bpf/etcpipe.h, as the parser, its settings and Regroup take them.

    Args:
        decap: the flow inside GRE, VXLAN, GENEVE, GTP-U, IP in IP, MPLS and PPPoE counts, not
            the tunnel; where the inside cannot be read, the tunnel itself.
        key_vlan: VLAN ids, both of QinQ, are part of the key.
        key_tunnel: so is the id of the innermost tunnel that has one; only with decap. GTP-U
            and MPLS have one id for each direction, which then are two flows.

    Raises:
        UsageError: key_tunnel without decap.
    """
    if key_tunnel and not decap:
        raise UsageError("the tunnel's id is known only with --decap")
    asked = {"PARSE_DECAP": decap, "PARSE_KEY_VLAN": key_vlan, "PARSE_KEY_TUNNEL": key_tunnel}
    return sum(CONSTANTS[name] for name, wanted in asked.items() if wanted)


def parse_key(text: str) -> dict[str, bool]:
    """Return the settings key_vlan and key_tunnel that "vlan,tunnel" asks for.

    Raises:
        UsageError: a part is not known.
    """
    parts = text.split(",")
    for part in parts:
        if part not in KEY_PARTS:
            raise UsageError(f"key {part!r}: one or both of {', '.join(KEY_PARTS)}")
    return {f"key_{part}": True for part in parts}
