/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a frame's first byte to IP: Ethernet, VLAN tags, and the tunnels that begin right
 * behind them (MPLS, PPPoE).
 */
#ifndef ETCPIPE_ETHERNET_H
#define ETCPIPE_ETHERNET_H

#include <linux/if_ether.h>

#include "packet.h"

#define VLAN_TAGS_MAX 2
#define VLAN_ID(tci) ((tci) & 0xfff)
#define MPLS_LABELS_MAX 6
#define MPLS_BOTTOM 0x100		/* of a label stack entry in host order */
#define MPLS_LABEL_SHIFT 12
#define PPPOE_VERSION 0x11
#define PPP_IPV4 NET16(0x0021)
#define PPP_IPV6 NET16(0x0057)

/* What was found in a tunnel. */
struct inner {
	__be16 protocol;	/* ethertype, 0: nothing that can be parsed */
	__u32 id;		/* of the tunnel, 0: it has none */
};

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

struct pppoe_header {
	__u8 version;
	__u8 code;		/* 0: a session's packet */
	__be16 session;
	__be16 len;
	__be16 protocol;	/* PPP's first field */
};

static __always_inline int is_vlan(__be16 protocol)
{
	return protocol == NET16(ETH_P_8021Q) || protocol == NET16(ETH_P_8021AD);
}

/* The key's ids. A tag that repeats the outer one is the same tag, in band and beside the frame. */
static __always_inline void parse_zones(struct packet *p, __u16 inner_vlan)
{
	p->key.zone = p->vlan == VLAN_NONE ? 0 : VLAN_ID(p->vlan);
	p->key.inner_zone = inner_vlan == VLAN_NONE ? 0 : VLAN_ID(inner_vlan);
}

/* p->vlan is the tag that the kernel moved out of the frame, or VLAN_NONE. */
static __always_inline int parse_ethernet(struct cursor *c, struct packet *p, __u32 options,
					  __be16 *protocol)
{
	__u16 tci, inner_vlan = VLAN_NONE;
	struct vlan_tag *tag;
	struct ethhdr *eth;
	int i;

	if (PULL(c, eth, sizeof(*eth)))
		return parse_refuse(p, PACKETS_MALFORMED);
	*protocol = eth->h_proto;
UNROLL
	for (i = 0; i < VLAN_TAGS_MAX; i++) {
		if (!is_vlan(*protocol))
			break;
		if (PULL(c, tag, sizeof(*tag)))
			return parse_refuse(p, PACKETS_MALFORMED);
		tci = NET16(tag->tci);
		if (p->vlan == VLAN_NONE)
			p->vlan = tci;
		else if (tci != p->vlan)
			inner_vlan = tci;
		*protocol = tag->protocol;
	}
	if (options & PARSE_KEY_VLAN)
		parse_zones(p, inner_vlan);
	return 0;
}

/* The version tells IPv4 from IPv6 where no field does. */
static __always_inline int decap_ip(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct cursor ahead = *c;
	__u8 *first;

	if (PULL(&ahead, first, 1))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (*first >> 4 == 4)
		inner->protocol = NET16(ETH_P_IP);
	else if (*first >> 4 == 6)
		inner->protocol = NET16(ETH_P_IPV6);
	return 0;
}

/* Bottom label 0 (explicit null) tells no tunnel from another. */
static __always_inline int decap_mpls(struct cursor *c, struct packet *p, struct inner *inner)
{
	__be32 *label;
	__u32 entry = 0;
	int i;

NO_UNROLL
	for (i = 0; i < MPLS_LABELS_MAX && !(entry & MPLS_BOTTOM); i++) {
		if (PULL(c, label, sizeof(*label)))
			return parse_refuse(p, PACKETS_MALFORMED);
		entry = NET32(*label);
	}
	if (!(entry & MPLS_BOTTOM))
		return 0;
	if (entry >> MPLS_LABEL_SHIFT)
		inner->id = entry >> MPLS_LABEL_SHIFT;	/* the bottom one names the service */
	return decap_ip(c, p, inner);
}

/* The ethertype of what PPP carries, 0: not IP. */
static __always_inline __be16 ppp_ethertype(__be16 protocol)
{
	if (protocol == PPP_IPV4)
		return NET16(ETH_P_IP);
	return protocol == PPP_IPV6 ? NET16(ETH_P_IPV6) : 0;
}

static __always_inline int decap_pppoe(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct pppoe_header *pppoe;

	if (PULL(c, pppoe, sizeof(*pppoe)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (pppoe->version != PPPOE_VERSION || pppoe->code)
		return 0;
	if (pppoe->session)
		inner->id = NET16(pppoe->session);
	inner->protocol = ppp_ethertype(pppoe->protocol);
	return 0;
}

/* What an ethertype announces: IP itself, or what has IP behind a header or two. */
static __always_inline int decap_link(struct cursor *c, struct packet *p, __be16 protocol,
				      struct inner *inner)
{
	if (protocol == NET16(ETH_P_MPLS_UC))
		return decap_mpls(c, p, inner);
	if (protocol == NET16(ETH_P_PPP_SES))
		return decap_pppoe(c, p, inner);
	inner->protocol = protocol;
	return 0;
}

/* An inner frame's VLAN tags are skipped: the key has those of the outer one. */
static __always_inline int decap_ethernet(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct vlan_tag *tag;
	struct ethhdr *eth;
	__be16 protocol;
	int i;

	if (PULL(c, eth, sizeof(*eth)))
		return parse_refuse(p, PACKETS_MALFORMED);
	protocol = eth->h_proto;
UNROLL
	for (i = 0; i < VLAN_TAGS_MAX; i++) {
		if (!is_vlan(protocol))
			break;
		if (PULL(c, tag, sizeof(*tag)))
			return parse_refuse(p, PACKETS_MALFORMED);
		protocol = tag->protocol;
	}
	return decap_link(c, p, protocol, inner);
}

#endif /* ETCPIPE_ETHERNET_H */
