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
	LINK_PPP = 9,
	LINK_RAW_BSD = 12,	/* DLT_RAW, written into files by mistake */
	LINK_RAW_OPENBSD = 14,
	LINK_PPP_HDLC = 50,
	LINK_RAW = 101,
	LINK_CISCO_HDLC = 104,
	LINK_LOOP = 108,
	LINK_SLL = 113,
	LINK_IPV4 = 228,
	LINK_IPV6 = 229,
	LINK_SLL2 = 276,
};

#define SLL_BEFORE_ETHERNET 2	/* the 16 bytes end as an Ethernet header does, VLAN tags too */
#define SLL2_LEN 20		/* the protocol is its first field */
#define LOOPBACK_LEN 4		/* address family, in the writer's byte order or big-endian */
#define HDLC_UNICAST NET16(0x0f00)	/* address and a zero, then an ethertype */
#define HDLC_MULTICAST NET16(0x8f00)
#define PPP_FRAMING NET16(0xff03)	/* address and control of RFC 1662, 3.1, often left out */

/* The version tells IPv4 from IPv6, as address families differ between systems. */
static inline __be16 link_ip_version(const struct cursor *c)
{
	__u8 version = c->pos < c->end ? *(__u8 *)c->pos >> 4 : 0;

	return version == 4 ? NET16(ETH_P_IP) : version == 6 ? NET16(ETH_P_IPV6) : 0;
}

/* Move the cursor behind the next two bytes, which may lie at an odd address. */
static inline int link_word(struct cursor *c, struct packet *p, __be16 *word)
{
	__u8 *bytes;

	if (PULL(c, bytes, sizeof(*word)))
		return parse_refuse(p, PACKETS_MALFORMED);
	__builtin_memcpy(word, bytes, sizeof(*word));
	return 0;
}

/* PPP with and without framing, and Cisco's HDLC, which some files call PPP too. */
static inline int parse_ppp(struct cursor *c, struct packet *p, __be16 *protocol)
{
	__be16 number;

	if (link_word(c, p, &number))
		return -1;
	if (number == HDLC_UNICAST || number == HDLC_MULTICAST)
		return link_word(c, p, protocol);
	if (number == PPP_FRAMING && link_word(c, p, &number))
		return -1;
	*protocol = ppp_ethertype(number);
	return 0;
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
	case LINK_PPP:
	case LINK_PPP_HDLC:
	case LINK_CISCO_HDLC:
		return parse_ppp(c, p, protocol);
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
