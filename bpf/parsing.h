/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The packet parser, one for XDP, TC and user space. Each step checks bounds, moves the
 * cursor and returns 0 or -1; what it found leaves through pointers. From the wire up:
 * ethernet.h, ip.h, and decap.h where a tunnel begins.
 */
#ifndef ETCPIPE_PARSING_H
#define ETCPIPE_PARSING_H

#include "decap.h"
#include "ip.h"

#define PLAIN_IPV4 0x45		/* version 4, a header of 5 words */
#define TUNNELS_MAX 2		/* IP in IP in IP */
#define LAYERS_MAX (2 * (TUNNELS_MAX + 1))	/* all of them, and all but the last one again */

/* Where the cursor stood in its frame. */
struct origin {
	void *frame;
	__u32 wire_len;		/* of the frame, of which less may be in memory */
	__be16 protocol;	/* of what follows */
};

/* How far a frame is parsed, from the outermost IP packet to the one whose flow is wanted. */
struct layers {
	__u64 start;		/* where the outermost one begins, from the frame's first byte */
	__u64 offset;		/* and the next one */
	__u32 wire_len;
	__u32 transport_len;	/* of the last one's TCP or UDP header */
	__u32 link_id;		/* of a tunnel around all of them */
	__be16 link_protocol;	/* of the outermost one */
	__be16 protocol;	/* of the next one, 0: there is none */
	__u8 level;		/* how many are parsed */
	__u8 depth;		/* how many may be parsed beyond the outermost one */
	__u8 is_found;		/* the last one is the one that is wanted */
	__u8 pad;
	struct ends ends;	/* of the last one */
};

/* A packet on its way through the parser. */
struct scratch {
	struct packet packet;
	struct layers layers;
};

/*
 * Put the two ends in canonical order, so that both directions have one key. Written in words
 * of 8 bytes, as the map reads it: a processor waits for smaller stores to reach the cache
 * before it can load a word that they make up together.
 */
static __always_inline void parse_order(struct packet *p, const struct ends *ends)
{
	const union address *source = &ends->source, *destination = &ends->destination;
	__u64 words[6];
	int from_b;

	from_b = source->halves[0] != destination->halves[0] ?
			 source->halves[0] > destination->halves[0] :
		 source->halves[1] != destination->halves[1] ?
			 source->halves[1] > destination->halves[1] :
			 ends->sport > ends->dport;
	p->from_b = from_b;
	words[0] = from_b ? destination->halves[0] : source->halves[0];
	words[1] = from_b ? destination->halves[1] : source->halves[1];
	words[2] = from_b ? source->halves[0] : destination->halves[0];
	words[3] = from_b ? source->halves[1] : destination->halves[1];
	words[4] = from_b ? ends->dport | (__u32)ends->sport << 16 :
			    ends->sport | (__u32)ends->dport << 16;
	words[4] |= (__u64)p->key.protocol << 32 | (__u64)p->key.ip_version << 40 |
		    (__u64)p->key.zone << 48;
	words[5] = p->key.inner_zone | (__u64)p->key.tunnel << 32;
	__builtin_memcpy(&p->key, words, sizeof(p->key));
}

/* Begin with the outermost IP packet, and go no deeper than @depth. */
static __always_inline void layers_begin(struct layers *at, __u8 depth, __u32 options,
					 struct packet *p)
{
	at->offset = at->start;
	at->protocol = at->link_protocol;
	at->level = 0;
	at->depth = depth;
	at->is_found = 0;
	p->key.tunnel = options & PARSE_KEY_TUNNEL ? at->link_id : 0;
	p->fragment = FRAGMENT_NONE;
}

/* Look into the packet that was just parsed. at->protocol is that of what is inside, if any. */
static __always_inline int parse_inside(struct cursor *c, struct layers *at, void *frame,
					__u32 options, struct packet *p)
{
	struct inner inner = {};

	if (decap(c, p, at->ends.dport, &inner))
		return -1;
	if (inner.protocol != NET16(ETH_P_IP) && inner.protocol != NET16(ETH_P_IPV6))
		return 0;
	if (options & PARSE_KEY_TUNNEL && inner.id)
		p->key.tunnel = inner.id;
	if (parse_rebase(c, frame, &at->offset))
		return parse_refuse(p, PACKETS_MALFORMED);
	at->protocol = inner.protocol;
	return 0;
}

/* Parse the next IP packet up to its transport header, and look into it. */
static __always_inline int parse_layer(struct cursor *c, struct layers *at, void *frame,
				       __u32 options, struct packet *p)
{
	__be16 protocol = at->protocol;
	__u64 offset = at->offset;

	if (offset > OFFSET_MAX || at->wire_len < offset)
		return parse_refuse(p, PACKETS_MALFORMED);
	c->pos = frame + offset;
	if (parse_ip(c, p, &at->ends, protocol, at->wire_len - offset))
		return -1;
	p->network_offset = offset;
	if (parse_rebase(c, frame, &offset))
		return parse_refuse(p, PACKETS_MALFORMED);
	p->transport_offset = offset;
	if (parse_transport(c, p, &at->ends, &at->transport_len))
		return -1;
	at->protocol = 0;
	return at->level++ < at->depth ? parse_inside(c, at, frame, options, p) : 0;
}

/*
 * Take the next step of parsing; returns 1 when there is none any more. A tunnel whose inside
 * cannot be read is parsed again as what it is itself: p->refusal then says why.
 */
static __always_inline int parse_step(struct cursor *c, struct layers *at, void *frame,
				      __u32 options, struct packet *p)
{
	if (!parse_layer(c, at, frame, options, p)) {
		at->is_found = !at->protocol;
		return at->is_found;
	}
	if (!at->level || p->refusal == PACKETS_FRAGMENT)
		return 1;
	layers_begin(at, at->level - 1, options, p);
	return 0;
}

/* Find the outermost IP packet: in the frame itself, or in a tunnel right behind its header. */
static __always_inline int parse_outermost(struct cursor *c, const struct origin *origin,
					   __u32 options, struct layers *at, struct packet *p)
{
	struct inner link = {};

	if (options & PARSE_DECAP && decap_link(c, p, origin->protocol, &link))
		return -1;
	at->wire_len = origin->wire_len;
	at->link_protocol = options & PARSE_DECAP ? link.protocol : origin->protocol;
	at->link_id = link.id;
	if (parse_rebase(c, origin->frame, &at->start))
		return parse_refuse(p, PACKETS_MALFORMED);
	layers_begin(at, options & PARSE_DECAP ? TUNNELS_MAX : 0, options, p);
	return 0;
}

/* What is known of the packet when the last step was taken. */
static __always_inline int parse_finish(const struct layers *at, struct packet *p)
{
	__u32 headers;

	if (!at->is_found)
		return -1;
	headers = p->transport_offset - p->network_offset + at->transport_len;
	p->payload_offset = p->transport_offset + at->transport_len;
	p->payload_len = at->transport_len && p->ip_len > headers ? p->ip_len - headers : 0;
	parse_order(p, &at->ends);
	return 0;
}

/* Parse from what the link carries on. */
static __always_inline int parse_network(struct cursor *c, const struct origin *origin,
					 __u32 options, struct packet *p)
{
	struct layers at = {};
	int i;

	if (parse_outermost(c, origin, options, &at, p))
		return -1;
NO_UNROLL
	for (i = 0; i < LAYERS_MAX; i++)
		if (parse_step(c, &at, origin->frame, options, p))
			break;
	return parse_finish(&at, p);
}

/*
 * Bytes of the transport header of what most packets are: TCP or UDP in IPv4 without options,
 * right behind Ethernet, no fragment. 0 of any other packet, or one that is cut short.
 */
static __always_inline __u32 plain_transport_len(const struct cursor *c)
{
	struct ethhdr *eth = c->pos;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > c->end || eth->h_proto != NET16(ETH_P_IP) ||
	    *(__u8 *)ip != PLAIN_IPV4 || ip->frag_off & (IPV4_OFFSET_MASK | IPV4_MORE))
		return 0;
	if (ip->protocol == IPPROTO_TCP)
		return tcp->doff < 5 ? 0 : tcp->doff * 4;
	return ip->protocol == IPPROTO_UDP ? sizeof(struct udphdr) : 0;
}

/* The key of a plain packet; UDP's ports lie where TCP's do. */
static __always_inline void plain_key(const struct iphdr *ip, struct packet *p)
{
	const struct udphdr *udp = (const void *)(ip + 1);
	struct ends ends = { .sport = udp->source, .dport = udp->dest };

	ends.source.halves[1] = ipv4_mapped(ip->saddr);
	ends.destination.halves[1] = ipv4_mapped(ip->daddr);
	p->key.protocol = ip->protocol;
	p->key.ip_version = 4;
	p->key.zone = p->key.inner_zone = 0;
	p->key.tunnel = 0;
	parse_order(p, &ends);
}

/*
 * Parse a plain packet in one go, where no PARSE_ bits are set. Leaves in @p what the steps
 * above would, but for the fragment's part. Returns -1 of any other packet, and leaves nothing.
 */
static __always_inline int parse_plain(const struct cursor *c, __u32 wire_len, __u16 vlan,
				       struct packet *p)
{
	struct iphdr *ip = c->pos + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 network_len = wire_len - sizeof(struct ethhdr), total;
	__u32 len = plain_transport_len(c), headers = sizeof(*ip) + len;
	int is_tcp;

	if (!len || wire_len < sizeof(struct ethhdr) + sizeof(*ip))
		return -1;
	total = NET16(ip->tot_len);
	if (!total || total > network_len)
		total = network_len;
	if (total < sizeof(*ip))
		return -1;
	plain_key(ip, p);
	is_tcp = ip->protocol == IPPROTO_TCP;
	p->tcp_flags = is_tcp ? ((__u8 *)tcp)[13] : 0;
	p->tcp_window = is_tcp ? NET16(tcp->window) : 0;
	p->ip_len = total;
	p->payload_len = total > headers ? total - headers : 0;
	p->network_offset = sizeof(struct ethhdr);
	p->transport_offset = sizeof(struct ethhdr) + sizeof(*ip);
	p->payload_offset = sizeof(struct ethhdr) + headers;
	p->vlan = vlan;
	p->ttl = ip->ttl;
	p->refusal = 0;
	p->fragment = FRAGMENT_NONE;
	return 0;
}

/*
 * Parse an Ethernet frame into @p, which starts zeroed. @vlan is the TCI of the tag that the
 * kernel keeps beside the frame, or VLAN_NONE; @options are PARSE_ bits.
 */
static __always_inline int parse_frame(struct cursor *c, __u32 wire_len, __u16 vlan,
				       __u32 options, struct packet *p)
{
	struct origin origin = { .frame = c->pos, .wire_len = wire_len };

	if (!options && !parse_plain(c, wire_len, vlan, p))
		return 0;
	p->vlan = vlan;
	if (parse_ethernet(c, p, options, &origin.protocol))
		return -1;
	return parse_network(c, &origin, options, p);
}

#endif /* ETCPIPE_PARSING_H */
