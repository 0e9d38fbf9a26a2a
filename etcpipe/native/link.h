/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of capture files: where the IP header begins, by link type (the LINKTYPE
 * numbers of tcpdump.org/linktypes.html). Live traffic is always Ethernet.
 */
#ifndef ETCPIPE_LINK_H
#define ETCPIPE_LINK_H

#include "parsing.h"

enum link_type {
	LINK_NULL = 0,
	LINK_ETHERNET = 1,
	LINK_RAW_BSD = 12,	/* DLT_RAW, written into files by mistake */
	LINK_RAW_OPENBSD = 14,
	LINK_RAW = 101,
	LINK_LOOP = 108,
	LINK_SLL = 113,
	LINK_IPV4 = 228,
	LINK_IPV6 = 229,
	LINK_SLL2 = 276,
};

#define SLL_BEFORE_ETHERNET 2	/* the 16 bytes end as an Ethernet header does, VLAN tags too */
#define SLL2_LEN 20		/* the protocol is its first field */
#define LOOPBACK_LEN 4		/* address family, in the writer's byte order or big-endian */

/* The version tells IPv4 from IPv6, as address families differ between systems. */
static inline __be16 link_ip_version(const struct cursor *c)
{
	__u8 version = c->pos < c->end ? *(__u8 *)c->pos >> 4 : 0;

	return version == 4 ? NET16(ETH_P_IP) : version == 6 ? NET16(ETH_P_IPV6) : 0;
}

/* Move the cursor to the network header. Returns -1 with p->refusal set if it is cut off. */
static inline int parse_link(struct cursor *c, int link_type, __u32 options,
			     struct packet *p, __be16 *protocol)
{
	__u8 *header;

	switch (link_type) {
	case LINK_ETHERNET:
		return parse_ethernet(c, p, options, protocol);
	case LINK_SLL:
		if (PULL(c, header, SLL_BEFORE_ETHERNET))
			return parse_refuse(p, PACKETS_MALFORMED);
		return parse_ethernet(c, p, options, protocol);
	case LINK_SLL2:
		if (PULL(c, header, SLL2_LEN))
			return parse_refuse(p, PACKETS_MALFORMED);
		__builtin_memcpy(protocol, header, 2);
		return 0;
	case LINK_NULL:
	case LINK_LOOP:
		if (PULL(c, header, LOOPBACK_LEN))
			return parse_refuse(p, PACKETS_MALFORMED);
		break;
	case LINK_RAW_BSD:
	case LINK_RAW_OPENBSD:
	case LINK_RAW:
	case LINK_IPV4:
	case LINK_IPV6:
		break;
	default:
		return parse_refuse(p, PACKETS_NOT_IP);
	}
	*protocol = link_ip_version(c);
	return 0;
}

/*
 * Parse a captured frame of any link type into @p, which starts zeroed; the rest is as in
 * parse_frame().
 */
static inline int parse_captured(struct cursor *c, __u32 wire_len, int link_type, __u16 vlan,
				 __u32 options, struct packet *p)
{
	struct origin origin = { .frame = c->pos, .wire_len = wire_len };

	if (link_type == LINK_ETHERNET && !options && !parse_plain(c, wire_len, vlan, p))
		return 0;
	p->vlan = vlan;
	if (parse_link(c, link_type, options, p, &origin.protocol))
		return -1;
	return parse_network(c, &origin, options, p);
}

#endif /* ETCPIPE_LINK_H */
