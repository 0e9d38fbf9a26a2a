/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Tunnels in IP: from a parsed packet to the one that travels in it. What does not look like the
 * tunnel that its port or protocol says is no error: then there is nothing inside.
 */
#ifndef ETCPIPE_DECAP_H
#define ETCPIPE_DECAP_H

#include <linux/in.h>

#include "ethernet.h"

#define GTP_EXTENSIONS_MAX 4

#define PORT_GTPU NET16(2152)		/* 3GPP TS 29.281, 4.4.2 */
#define PORT_VXLAN NET16(4789)		/* RFC 7348, 5 */
#define PORT_VXLAN_LINUX NET16(8472)	/* the kernel's default, older than the RFC */
#define PORT_GENEVE NET16(6081)		/* RFC 8926, 3.3 */

#define GRE_CHECKSUM 0x8000		/* RFC 2784 and 2890; all other bits must be 0 */
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define VXLAN_HAS_VNI 0x08
#define GENEVE_VERSION 0xc0
#define GENEVE_OPTIONS 0x3f		/* in 4-byte units */
#define GTP_VERSION_1 0x30		/* and protocol type GTP, not GTP' */
#define GTP_GPDU 255			/* the only message with a packet inside */
#define GTP_OPTIONAL 0x07		/* any of these: 4 bytes more */
#define GTP_EXTENDED 0x04

struct gre_header {
	__be16 flags;
	__be16 protocol;
};

struct vxlan_header {
	__u8 flags;
	__u8 reserved[3];
	__be32 vni;		/* 24 bits and 8 reserved ones */
};

struct geneve_header {
	__u8 version;		/* and the length of its options */
	__u8 flags;
	__be16 protocol;
	__be32 vni;
};

struct gtp_header {
	__u8 flags;
	__u8 type;
	__be16 len;
	__be32 teid;
};

struct gtp_optional {
	__be16 sequence;
	__u8 n_pdu;
	__u8 next;		/* type of the first extension header, 0: none */
};

/* GRE and GENEVE name what they carry by its ethertype. */
static __always_inline int decap_protocol(struct cursor *c, struct packet *p, __be16 protocol,
					  struct inner *inner)
{
	if (protocol == NET16(ETH_P_TEB))
		return decap_ethernet(c, p, inner);
	return decap_link(c, p, protocol, inner);
}

static __always_inline int decap_gre(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct gre_header *gre;
	__be32 *word;
	__u16 flags;

	if (PULL(c, gre, sizeof(*gre)))
		return parse_refuse(p, PACKETS_MALFORMED);
	flags = NET16(gre->flags);
	if (flags & ~(GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE))
		return 0;	/* source routes, or version 1, which is PPTP's */
	if (flags & GRE_CHECKSUM && PULL(c, word, sizeof(*word)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (flags & GRE_KEY) {
		if (PULL(c, word, sizeof(*word)))
			return parse_refuse(p, PACKETS_MALFORMED);
		inner->id = NET32(*word);
	}
	if (flags & GRE_SEQUENCE && PULL(c, word, sizeof(*word)))
		return parse_refuse(p, PACKETS_MALFORMED);
	return decap_protocol(c, p, gre->protocol, inner);
}

static __always_inline int decap_vxlan(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct vxlan_header *vxlan;

	if (PULL(c, vxlan, sizeof(*vxlan)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (!(vxlan->flags & VXLAN_HAS_VNI))
		return 0;
	inner->id = NET32(vxlan->vni) >> 8;
	return decap_ethernet(c, p, inner);
}

static __always_inline int decap_geneve(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct geneve_header *geneve;

	if (PULL(c, geneve, sizeof(*geneve)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (geneve->version & GENEVE_VERSION)
		return 0;
	inner->id = NET32(geneve->vni) >> 8;
	c->pos = (void *)(geneve + 1) + (geneve->version & GENEVE_OPTIONS) * 4;
	return decap_protocol(c, p, geneve->protocol, inner);
}

/* An extension header is its length in 4-byte units, its content, the next one's type. */
static __always_inline int decap_gtp_extensions(struct cursor *c, struct packet *p, __u8 next)
{
	__u8 *len, *type;
	int i;

NO_UNROLL
	for (i = 0; i < GTP_EXTENSIONS_MAX && next; i++) {
		if (PULL(c, len, 1) || !*len)
			return parse_refuse(p, PACKETS_MALFORMED);
		c->pos = (void *)len + *len * 4 - 1;
		if (PULL(c, type, 1))
			return parse_refuse(p, PACKETS_MALFORMED);
		next = *type;
	}
	return next ? parse_refuse(p, PACKETS_MALFORMED) : 0;
}

static __always_inline int decap_gtp(struct cursor *c, struct packet *p, struct inner *inner)
{
	struct gtp_optional *optional;
	struct gtp_header *gtp;

	if (PULL(c, gtp, sizeof(*gtp)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if ((gtp->flags & 0xf0) != GTP_VERSION_1 || gtp->type != GTP_GPDU)
		return 0;
	if (gtp->flags & GTP_OPTIONAL) {
		if (PULL(c, optional, sizeof(*optional)))
			return parse_refuse(p, PACKETS_MALFORMED);
		if (gtp->flags & GTP_EXTENDED && decap_gtp_extensions(c, p, optional->next))
			return -1;
	}
	inner->id = NET32(gtp->teid);
	return decap_ip(c, p, inner);
}

static __always_inline int decap_udp(struct cursor *c, struct packet *p, __be16 port,
				     struct inner *inner)
{
	if (port == PORT_VXLAN || port == PORT_VXLAN_LINUX)
		return decap_vxlan(c, p, inner);
	if (port == PORT_GENEVE)
		return decap_geneve(c, p, inner);
	if (port == PORT_GTPU)
		return decap_gtp(c, p, inner);
	return 0;
}

/*
 * Look into a packet whose transport header was parsed, if it has one; @port is where it goes.
 * The cursor moves to what is inside, but c->pos means nothing if that is not IP.
 */
static __always_inline int decap(struct cursor *c, struct packet *p, __be16 port,
				 struct inner *inner)
{
	switch (p->key.protocol) {
	case IPPROTO_UDP:
		return decap_udp(c, p, port, inner);
	case IPPROTO_GRE:
		return decap_gre(c, p, inner);
	case IPPROTO_IPIP:
		inner->protocol = NET16(ETH_P_IP);
		return 0;
	case IPPROTO_IPV6:
		inner->protocol = NET16(ETH_P_IPV6);
		return 0;
	default:
		return 0;
	}
}

#endif /* ETCPIPE_DECAP_H */
