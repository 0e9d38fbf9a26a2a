/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Super-packets (GSO, GRO) as they are on the wire: the hooks see many segments as one
 * packet, the consumer gets each with its own bytes, lengths, numbers and flags.
 */
#ifndef ETCPIPE_SEGMENTS_H
#define ETCPIPE_SEGMENTS_H

#include "parsing.h"

#define SEGMENT_HEADERS_MAX 192	/* longer headers than these (IPv6 extensions) stay whole */
#define SEGMENT_OFFSET_MASK 0xff	/* changes nothing, but shows the verifier a bound */
#define TCP_CWR 0x80

/* Keep a loop's counter a counter: else clang compares ends, on which no arithmetic is allowed. */
#define KEEP(x) asm volatile("" : "+r"(x))

/* One packet of a super-packet, or all of a frame that is none. */
struct segment_cut {
	__u32 skip;		/* payload bytes before it */
	__u32 payload_len;	/* its own, 0: the frame is one packet */
	__u16 headers;		/* bytes before the payload */
	__u16 network;		/* where its IP header begins */
	__u16 transport;
	__u16 index;		/* among its super-packet's segments */
	__u8 is_last;
	__u8 ip_version;
	__u8 protocol;
	__u8 pad;
};

/*
 * How many packets of at most @size payload bytes a frame is, by its own payload; 1 where
 * that cannot be told: a tunnel's outer payload holds headers beside the segments.
 */
static __always_inline __u32 segments_in(const struct packet *p, __u32 size, __u32 told)
{
	__u32 n;

	if (!size || p->payload_len <= size || p->payload_offset > SEGMENT_HEADERS_MAX)
		return 1;
	n = (p->payload_len + size - 1) / size;
	return !told || told == n ? n : 1;
}

static __always_inline struct segment_cut segment_cut(const struct packet *p, __u32 size,
						      __u32 index)
{
	struct segment_cut cut = {
		.skip = index * size,
		.headers = p->payload_offset,
		.network = p->network_offset,
		.transport = p->transport_offset,
		.index = index,
		.ip_version = p->key.ip_version,
		.protocol = p->key.protocol,
	};
	__u32 left = p->payload_len - cut.skip;

	cut.is_last = left <= size;
	cut.payload_len = cut.is_last ? left : size;
	return cut;
}

/* Replace a 16-bit word and keep the header's checksum right (RFC 1624, equation 3). */
static __always_inline void replace16(struct iphdr *ip, __be16 *word, __u16 value)
{
	__be16 new = NET16(value);
	__u32 sum = (__u16)~ip->check + (__u16)~*word + new;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	*word = new;
}

static __always_inline void segment_fix_ip(void *network, void *end, const struct segment_cut *cut)
{
	__u32 ip_len = (__u16)(cut->headers - cut->network) + cut->payload_len;
	struct ipv6hdr *ip6 = network;
	struct iphdr *ip = network;

	if (cut->ip_version == 4 && (void *)(ip + 1) <= end) {
		replace16(ip, &ip->tot_len, ip_len);
		replace16(ip, &ip->id, NET16(ip->id) + cut->index);
	} else if (cut->ip_version == 6 && (void *)(ip6 + 1) <= end) {
		ip6->payload_len = NET16(ip_len - sizeof(*ip6));
	}
}

/* FIN and PSH stay on the last one only, CWR on the first (Linux, net/ipv4/tcp_offload.c). */
static __always_inline void segment_fix_transport(void *transport, void *end,
						  const struct segment_cut *cut)
{
	struct tcphdr *tcp = transport;
	struct udphdr *udp = transport;
	__u8 *flags = transport + 13;

	if (cut->protocol == IPPROTO_TCP && (void *)(tcp + 1) <= end) {
		tcp->seq = __builtin_bswap32(__builtin_bswap32(tcp->seq) + cut->skip);
		if (!cut->is_last)
			*flags &= ~(TCP_FIN | TCP_PSH);
		if (cut->index)
			*flags &= ~TCP_CWR;
	} else if (cut->protocol == IPPROTO_UDP && (void *)(udp + 1) <= end) {
		udp->len = NET16(cut->payload_len + sizeof(*udp));
	}
}

/* Give a copy of the super-packet's headers what they say on this packet. */
static __always_inline void segment_fix(void *frame, void *end, const struct segment_cut *cut)
{
	segment_fix_ip(frame + (cut->network & SEGMENT_OFFSET_MASK), end, cut);
	segment_fix_transport(frame + (cut->transport & SEGMENT_OFFSET_MASK), end, cut);
}

#endif /* ETCPIPE_SEGMENTS_H */
