/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The packet parser, one for XDP, TC and user space. Each step checks bounds,
 * moves the cursor and returns 0 or -1; what it found leaves through pointers.
 */
#ifndef ETCPIPE_PARSING_H
#define ETCPIPE_PARSING_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "etcpipe.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#ifdef __BPF__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "etcpipe runs on little-endian machines (x86-64, arm64)"
#endif
#define NET16(x) ((__u16)__builtin_bswap16((__u16)(x)))

#define VLAN_TAGS_MAX 2
#define IPV6_EXTENSIONS_MAX 6
#define IPV6_EXTENSIONS_MASK 0x3ffc	/* more than all of them can be long, in 4-byte units */
#define IPV4_OFFSET_MASK NET16(0x1fff)
#define IPV6_OFFSET_MASK NET16(0xfff8)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

struct cursor {
	void *pos;
	void *end;
};

/* What the tracker and the views need of a packet. Offsets count from the frame's first byte. */
struct packet {
	struct flow_key key;
	__u32 ip_len;		/* bytes from the IP header on */
	__u32 payload_len;	/* bytes after the TCP or UDP header, 0 for other protocols */
	__u16 network_offset;
	__u16 transport_offset;
	__u16 payload_offset;
	__u16 tcp_window;
	__u16 vlan;		/* outer TCI, or VLAN_NONE */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 from_b;		/* sent by end b of the key */
	__u8 refusal;		/* enum packet_counter, set where parsing fails */
};

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

struct ipv6_extension {
	__u8 next;
	__u8 len;
	__be16 offset;		/* of a fragment header */
	__be32 id;
};

union address {
	__u8 bytes[16];
	__u32 words[4];
	__u64 halves[2];
};

/* Point *hdr at the next @size bytes, or fail if they are not all in the packet. */
#define PULL(cursor, hdr, size)						\
	({								\
		(hdr) = (cursor)->pos;					\
		int __short = (void *)(hdr) + (size) > (cursor)->end;	\
		if (!__short)						\
			(cursor)->pos += (size);			\
		__short ? -1 : 0;					\
	})

static __always_inline int parse_refuse(struct packet *p, __u8 refusal)
{
	p->refusal = refusal;
	return -1;
}

static __always_inline int parse_ethernet(struct cursor *c, struct packet *p, __be16 *protocol)
{
	struct ethhdr *eth;
	struct vlan_tag *tag;
	int i;

	if (PULL(c, eth, sizeof(*eth)))
		return parse_refuse(p, PACKETS_MALFORMED);
	*protocol = eth->h_proto;
UNROLL
	for (i = 0; i < VLAN_TAGS_MAX; i++) {
		if (*protocol != NET16(ETH_P_8021Q) && *protocol != NET16(ETH_P_8021AD))
			break;
		if (PULL(c, tag, sizeof(*tag)))
			return parse_refuse(p, PACKETS_MALFORMED);
		if (i == 0)
			p->vlan = NET16(tag->tci);
		*protocol = tag->protocol;
	}
	return 0;
}

static __always_inline int parse_ipv4(struct cursor *c, struct packet *p, union address *source,
				      union address *destination, __u32 network_len)
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
	if (ip->frag_off & IPV4_OFFSET_MASK)
		return parse_refuse(p, PACKETS_FRAGMENT);
	c->pos = (void *)ip + header_len;
	source->halves[0] = destination->halves[0] = 0;
	source->words[2] = destination->words[2] = 0xffff0000;
	source->words[3] = ip->saddr;
	destination->words[3] = ip->daddr;
	p->key.protocol = ip->protocol;
	p->key.ip_version = 4;
	p->ttl = ip->ttl;
	p->ip_len = total;
	return 0;
}

/* Walk the extension headers (RFC 8200, 4) up to the transport header. */
static __always_inline int parse_ipv6_extensions(struct cursor *c, struct packet *p, __u8 *next)
{
	struct ipv6_extension *ext;
	void *start = c->pos;
	__u32 offset = 0, len;
	int i;

UNROLL
	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (*next != IPPROTO_HOPOPTS && *next != IPPROTO_ROUTING &&
		    *next != IPPROTO_DSTOPTS && *next != IPPROTO_AH && *next != IPPROTO_FRAGMENT)
			return 0;
		if (PULL(c, ext, sizeof(*ext)))
			return parse_refuse(p, PACKETS_MALFORMED);
		if (*next == IPPROTO_FRAGMENT && ext->offset & IPV6_OFFSET_MASK)
			return parse_refuse(p, PACKETS_FRAGMENT);
		len = (ext->len + 1) * 8;
		if (*next == IPPROTO_AH)
			len = (ext->len + 2) * 4;	/* RFC 4302, 2.2: in 4-byte units */
		else if (*next == IPPROTO_FRAGMENT)
			len = sizeof(*ext);
		/* the mask changes nothing, but the verifier then sees one state, not hundreds */
		offset = (offset + len) & IPV6_EXTENSIONS_MASK;
		c->pos = start + offset;
		*next = ext->next;
	}
	return 0;
}

static __always_inline int parse_ipv6(struct cursor *c, struct packet *p, union address *source,
				      union address *destination, __u32 network_len)
{
	struct ipv6hdr *ip;
	__u8 next;

	if (PULL(c, ip, sizeof(*ip)))
		return parse_refuse(p, PACKETS_MALFORMED);
	if (ip->version != 6)
		return parse_refuse(p, PACKETS_MALFORMED);
	__builtin_memcpy(source, &ip->saddr, sizeof(*source));
	__builtin_memcpy(destination, &ip->daddr, sizeof(*destination));
	p->key.ip_version = 6;
	p->ttl = ip->hop_limit;
	p->ip_len = NET16(ip->payload_len) + sizeof(*ip);
	if (!ip->payload_len || p->ip_len > network_len)
		p->ip_len = network_len;
	next = ip->nexthdr;
	if (parse_ipv6_extensions(c, p, &next))
		return -1;
	p->key.protocol = next;
	return 0;
}

/* @header_len is that of the transport header; other protocols have no ports and no payload. */
static __always_inline int parse_transport(struct cursor *c, struct packet *p, __be16 *source,
					   __be16 *destination, __u32 *header_len)
{
	struct tcphdr *tcp;
	struct udphdr *udp;
	__be16 *ports;

	*header_len = 0;
	if (p->key.protocol == IPPROTO_TCP) {
		if (PULL(c, tcp, sizeof(*tcp)) || tcp->doff < 5)
			return parse_refuse(p, PACKETS_MALFORMED);
		*source = tcp->source;
		*destination = tcp->dest;
		*header_len = tcp->doff * 4;
		p->tcp_flags = ((__u8 *)tcp)[13];
		p->tcp_window = NET16(tcp->window);
	} else if (p->key.protocol == IPPROTO_UDP) {
		if (PULL(c, udp, sizeof(*udp)))
			return parse_refuse(p, PACKETS_MALFORMED);
		*source = udp->source;
		*destination = udp->dest;
		*header_len = sizeof(*udp);
	} else if (p->key.protocol == IPPROTO_SCTP) {
		if (PULL(c, ports, 2 * sizeof(*ports)))
			return parse_refuse(p, PACKETS_MALFORMED);
		*source = ports[0];
		*destination = ports[1];
	}
	return 0;
}

/* Put the two ends in canonical order, so that both directions have one key. */
static __always_inline void parse_order(struct packet *p, const union address *source,
					const union address *destination, __be16 sport, __be16 dport)
{
	p->from_b = source->halves[0] != destination->halves[0] ?
			    source->halves[0] > destination->halves[0] :
		    source->halves[1] != destination->halves[1] ?
			    source->halves[1] > destination->halves[1] :
			    sport > dport;
	__builtin_memcpy(p->key.a_addr, p->from_b ? destination : source, 16);
	__builtin_memcpy(p->key.b_addr, p->from_b ? source : destination, 16);
	p->key.a_port = p->from_b ? dport : sport;
	p->key.b_port = p->from_b ? sport : dport;
}

/*
 * Parse from the IP header on. @frame is the frame's first byte, @wire_len the frame's
 * length on the wire, of which less may be in memory.
 */
static __always_inline int parse_network(struct cursor *c, void *frame, __u32 wire_len,
					 __be16 protocol, struct packet *p)
{
	union address source, destination;
	__be16 sport = 0, dport = 0;
	__u32 headers, transport_len;
	void *network = c->pos;
	__u32 offset = network - frame;

	if (wire_len < offset)
		return parse_refuse(p, PACKETS_MALFORMED);
	if (protocol == NET16(ETH_P_IP)) {
		if (parse_ipv4(c, p, &source, &destination, wire_len - offset))
			return -1;
	} else if (protocol == NET16(ETH_P_IPV6)) {
		if (parse_ipv6(c, p, &source, &destination, wire_len - offset))
			return -1;
	} else {
		return parse_refuse(p, PACKETS_NOT_IP);
	}
	p->network_offset = offset;
	p->transport_offset = c->pos - frame;
	if (parse_transport(c, p, &sport, &dport, &transport_len))
		return -1;
	headers = p->transport_offset - offset + transport_len;
	p->payload_offset = p->transport_offset + transport_len;
	p->payload_len = transport_len && p->ip_len > headers ? p->ip_len - headers : 0;
	parse_order(p, &source, &destination, sport, dport);
	return 0;
}

/* Parse an Ethernet frame into @p, which starts zeroed. */
static __always_inline int parse_frame(struct cursor *c, __u32 wire_len, struct packet *p)
{
	void *frame = c->pos;
	__be16 protocol;

	p->vlan = VLAN_NONE;
	if (parse_ethernet(c, p, &protocol))
		return -1;
	return parse_network(c, frame, wire_len, protocol, p);
}

#endif /* ETCPIPE_PARSING_H */
