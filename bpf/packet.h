/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a parser works with: the cursor, and the packet that it fills. One for XDP, TC
 * and user space.
 */
#ifndef ETCPIPE_PACKET_H
#define ETCPIPE_PACKET_H

#include "etcpipe.h"

/* linux/stddef.h makes it a mere hint, which libbpf's headers mend only since 0.4. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))

#ifdef __BPF__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define UNROLL
#define NO_UNROLL
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "etcpipe runs on little-endian machines (x86-64, arm64)"
#endif
#define NET16(x) ((__u16)__builtin_bswap16((__u16)(x)))
#define NET32(x) ((__u32)__builtin_bswap32((__u32)(x)))

struct cursor {
	void *pos;
	void *end;
};

union address {
	__u8 bytes[16];
	__u32 words[4];
	__u64 halves[2];
};

enum fragment_kind {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,		/* has the ports: the later ones belong to its flow */
	FRAGMENT_LATER,
};

/* What the fragments of a datagram have in common (RFC 791, 3.2; RFC 8200, 4.5). */
struct fragment_key {
	union address source;
	union address destination;
	__be32 id;
	__u32 tunnel;		/* zones and tunnel as in the flow key */
	__u16 zone;
	__u16 inner_zone;
	__u8 protocol;		/* IPv4 only: an IPv6 fragment's own says nothing */
	__u8 ip_version;
	__u8 pad[2];
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
	__u8 refusal;		/* enum packet_counter: why parsing failed, or ended at the tunnel */
	__u8 fragment;		/* enum fragment_kind */
	struct fragment_key fragment_key;	/* of a fragment */
};

/* Point *hdr at the next @size bytes, or fail if they are not all in the packet. */
#ifndef PULL
#define PULL(cursor, hdr, size)						\
	({								\
		(hdr) = (cursor)->pos;					\
		int __short = (void *)(hdr) + (size) > (cursor)->end;	\
		if (!__short)						\
			(cursor)->pos += (size);			\
		__short ? -1 : 0;					\
	})
#endif

/* Let the compiler forget what it knows of a variable. */
#ifndef OPAQUE
#define OPAQUE(variable) asm volatile("" : "+r"(variable))
#endif

static __always_inline int parse_refuse(struct packet *p, __u8 refusal)
{
	p->refusal = refusal;
	return -1;
}

#endif /* ETCPIPE_PACKET_H */
