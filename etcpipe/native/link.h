/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the link layer of a capture to the packet parser of bpf/parsing.h, for every
 * link type that etcpipe reads. Numbers are pcap's LINKTYPE_ values.
 */
#ifndef ETCPIPE_LINK_H
#define ETCPIPE_LINK_H

#include <string.h>

#include "parsing.h"

enum link_type {
	LINK_NULL = 0,		/* BSD loopback: address family in the writer's byte order */
	LINK_ETHERNET = 1,
	LINK_RAW_BSD = 12,	/* raw IP had three numbers before it got 101 */
	LINK_RAW_OPENBSD = 14,
	LINK_RAW = 101,
	LINK_LOOP = 108,	/* OpenBSD loopback: the family in network order */
	LINK_SLL = 113,		/* Linux cooked capture */
	LINK_IPV4 = 228,
	LINK_IPV6 = 229,
	LINK_SLL2 = 276,
};

#define SLL_BEFORE_ETHERNET 2	/* the 16 bytes end like an Ethernet header: protocol, VLAN tags */

struct sll2_header {
	__be16 protocol;
	__u8 rest[18];
};

/* Raw IP tells its version in the first nibble. */
static inline __be16 link_ip_protocol(const struct cursor *c)
{
	__u8 version = c->pos < c->end ? *(__u8 *)c->pos >> 4 : 0;

	return version == 4 ? NET16(ETH_P_IP) : version == 6 ? NET16(ETH_P_IPV6) : 0;
}

/* AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24, 28 or 30 on the BSDs and Darwin. */
static inline __be16 link_family_protocol(__u32 family)
{
	if (family > 0xffff)
		family = __builtin_bswap32(family);
	if (family == 2)
		return NET16(ETH_P_IP);
	if (family == 10 || family == 24 || family == 28 || family == 30)
		return NET16(ETH_P_IPV6);
	return 0;
}

static inline int link_is_known(int link_type)
{
	switch (link_type) {
	case LINK_NULL:
	case LINK_ETHERNET:
	case LINK_RAW_BSD:
	case LINK_RAW_OPENBSD:
	case LINK_RAW:
	case LINK_LOOP:
	case LINK_SLL:
	case LINK_IPV4:
	case LINK_IPV6:
	case LINK_SLL2:
		return 1;
	}
	return 0;
}

/*
 * Parse a frame of @link_type into @p, which starts zeroed. Like parse_frame, with
 * offsets and @wire_len counting from the first byte of the link header.
 */
static inline int parse_link(struct cursor *c, int link_type, __u32 wire_len, struct packet *p)
{
	void *frame = c->pos;
	struct sll2_header *sll2;
	__be16 protocol;
	__u32 family;
	void *header;

	p->vlan = VLAN_NONE;
	switch (link_type) {
	case LINK_ETHERNET:
		return parse_frame(c, wire_len, p);
	case LINK_SLL:
		if (PULL(c, header, SLL_BEFORE_ETHERNET))
			return parse_refuse(p, PACKETS_MALFORMED);
		if (parse_ethernet(c, p, &protocol))
			return -1;
		break;
	case LINK_SLL2:
		if (PULL(c, sll2, sizeof(*sll2)))
			return parse_refuse(p, PACKETS_MALFORMED);
		protocol = sll2->protocol;
		break;
	case LINK_NULL:
	case LINK_LOOP:
		if (PULL(c, header, sizeof(family)))
			return parse_refuse(p, PACKETS_MALFORMED);
		memcpy(&family, header, sizeof(family));
		protocol = link_family_protocol(family);
		break;
	default:
		protocol = link_ip_protocol(c);
	}
	return parse_network(c, frame, wire_len, protocol, p);
}

#endif /* ETCPIPE_LINK_H */
