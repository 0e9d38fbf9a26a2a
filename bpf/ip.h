/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* IPv4 and IPv6 with their options and extension headers, and the ports of TCP, UDP and SCTP. */
#ifndef ETCPIPE_IP_H
#define ETCPIPE_IP_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "packet.h"

#define OFFSET_MAX 0x3fff	/* a bound for the verifier, and more than tunnels add */
#define IPV6_EXTENSIONS_MAX 6
#define IPV4_OFFSET_MASK NET16(0x1fff)
#define IPV4_MORE NET16(0x2000)
#define IPV6_OFFSET_MASK NET16(0xfff8)
#define IPV6_MORE NET16(0x0001)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

struct ipv6_extension {
	__u8 next;
	__u8 len;
	__be16 offset;		/* of a fragment header */
	__be32 id;
};

/* Of an IP packet, before they are put in order. */
struct ends {
	union address source;
	union address destination;
	__be16 sport;
	__be16 dport;
};

/*
 * Say how far the cursor came, in a way that the verifier forgets how: it then checks what
 * follows once, and not again for each number of VLAN tags, labels and options.
 */
static __always_inline int parse_rebase(struct cursor *c, void *from, __u64 *offset)
{
	*offset = c->pos - from;
	if (*offset > OFFSET_MAX)
		return -1;
	OPAQUE(*offset);
	c->pos = from + *offset;
	return 0;
}

/* Note what tells a fragment's datagram; the addresses are those of the IP header around it. */
static __always_inline int parse_fragment(struct packet *p, const struct ends *ends, __be32 id,
					  __u8 protocol, int is_later)
{
	struct fragment_key *key = &p->fragment_key;

	p->fragment = is_later ? FRAGMENT_LATER : FRAGMENT_FIRST;
	key->source = ends->source;
	key->destination = ends->destination;
	key->id = id;
	key->tunnel = p->key.tunnel;
	key->zone = p->key.zone;
	key->inner_zone = p->key.inner_zone;
	key->protocol = protocol;
	key->ip_version = p->key.ip_version;
	return is_later ? parse_refuse(p, PACKETS_FRAGMENT) : 0;
}

static __always_inline __u64 ipv4_mapped(__be32 address)
{
	return (__u64)address << 32 | 0xffff0000;
}

static __always_inline int parse_ipv4(struct cursor *c, struct packet *p, struct ends *ends,
				      __u32 network_len)
{
	struct iphdr *ip;
	__u32 header_len, total;

	if (PULL(c, ip, sizeof(*ip)))
		return parse_refuse(p, PACKETS_MALFORMED);
	header_len = ip->ihl * 4;
	total = NET16(ip->tot_len);
	if (!total || total > network_len)
		total = network_len;	/* a super-packet says 0, a cut one too much */
	if (ip->version != 4 || header_len < sizeof(*ip) || total < header_len)
		return parse_refuse(p, PACKETS_MALFORMED);
	c->pos = (void *)ip + header_len;
	ends->source.halves[0] = ends->destination.halves[0] = 0;
	ends->source.halves[1] = ipv4_mapped(ip->saddr);
	ends->destination.halves[1] = ipv4_mapped(ip->daddr);
	p->key.protocol = ip->protocol;
	p->key.ip_version = 4;
	p->ttl = ip->ttl;
	p->ip_len = total;
	if (ip->frag_off & (IPV4_OFFSET_MASK | IPV4_MORE))
		return parse_fragment(p, ends, ip->id, ip->protocol,
				      ip->frag_off & IPV4_OFFSET_MASK);
	return 0;
}

/* Walk the extension headers (RFC 8200, 4) up to the transport header. */
static __always_inline int parse_ipv6_extensions(struct cursor *c, struct packet *p,
						 const struct ends *ends, __u8 *next)
{
	struct ipv6_extension *ext;
	void *start = c->pos;
	__u64 offset;
	__u32 len;
	int i;

UNROLL
	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (*next != IPPROTO_HOPOPTS && *next != IPPROTO_ROUTING &&
		    *next != IPPROTO_DSTOPTS && *next != IPPROTO_AH && *next != IPPROTO_FRAGMENT)
			return 0;
		if (PULL(c, ext, sizeof(*ext)))
			return parse_refuse(p, PACKETS_MALFORMED);
		if (*next == IPPROTO_FRAGMENT && ext->offset & (IPV6_OFFSET_MASK | IPV6_MORE))
			if (parse_fragment(p, ends, ext->id, 0, ext->offset & IPV6_OFFSET_MASK))
				return -1;
		len = (ext->len + 1) * 8;
		if (*next == IPPROTO_AH)
			len = (ext->len + 2) * 4;	/* RFC 4302, 2.2: in 4-byte units */
		else if (*next == IPPROTO_FRAGMENT)
			len = sizeof(*ext);
		c->pos = (void *)ext + len;
		if (parse_rebase(c, start, &offset))
			return parse_refuse(p, PACKETS_MALFORMED);
		*next = ext->next;
	}
	return 0;
}

static __always_inline int parse_ipv6(struct cursor *c, struct packet *p, struct ends *ends,
				      __u32 network_len)
{
	struct ipv6hdr *ip;
	__u8 next;

	if (PULL(c, ip, sizeof(*ip)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (ip->version != 6)
		return parse_refuse(p, PACKETS_MALFORMED);
	__builtin_memcpy(&ends->source, &ip->saddr, sizeof(ends->source));
	__builtin_memcpy(&ends->destination, &ip->daddr, sizeof(ends->destination));
	p->key.ip_version = 6;
	p->ttl = ip->hop_limit;
	p->ip_len = NET16(ip->payload_len) + sizeof(*ip);
	if (!ip->payload_len || p->ip_len > network_len)
		p->ip_len = network_len;
	next = ip->nexthdr;
	if (parse_ipv6_extensions(c, p, ends, &next))
		return -1;
	p->key.protocol = next;
	return 0;
}

static __always_inline int parse_ip(struct cursor *c, struct packet *p, struct ends *ends,
				    __be16 protocol, __u32 network_len)
{
	if (protocol == NET16(ETH_P_IP))
		return parse_ipv4(c, p, ends, network_len);
	if (protocol == NET16(ETH_P_IPV6))
		return parse_ipv6(c, p, ends, network_len);
	return parse_refuse(p, PACKETS_NOT_IP);
}

/* @header_len is that of the transport header; other protocols have no ports and no payload. */
static __always_inline int parse_transport(struct cursor *c, struct packet *p, struct ends *ends,
					   __u32 *header_len)
{
	struct tcphdr *tcp;
	struct udphdr *udp;
	__be16 *ports;

	*header_len = 0;
	ends->sport = ends->dport = 0;
	if (p->key.protocol == IPPROTO_TCP) {
		if (PULL(c, tcp, sizeof(*tcp)) || tcp->doff < 5)
			return parse_refuse(p, PACKETS_MALFORMED);
		ends->sport = tcp->source;
		ends->dport = tcp->dest;
		*header_len = tcp->doff * 4;
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->tcp_window = NET16(tcp->window);
	} else if (p->key.protocol == IPPROTO_UDP) {
		if (PULL(c, udp, sizeof(*udp)))
			return parse_refuse(p, PACKETS_MALFORMED);
		ends->sport = udp->source;
		ends->dport = udp->dest;
		*header_len = sizeof(*udp);
	} else if (p->key.protocol == IPPROTO_SCTP) {
		if (PULL(c, ports, 2 * sizeof(*ports)))
			return parse_refuse(p, PACKETS_MALFORMED);
		ends->sport = ports[0];
		ends->dport = ports[1];
	}
	return 0;
}

#endif /* ETCPIPE_IP_H */
