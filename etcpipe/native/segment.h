/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets as they are on the wire: a whole frame, or one segment of a super-packet (GSO),
 * which the device cuts up after the hooks have seen it whole.
 */
#ifndef ETCPIPE_SEGMENT_H
#define ETCPIPE_SEGMENT_H

#include <stdint.h>

#include "parsing.h"

#define TCP_CWR 0x80

struct segment {
	uint32_t ip_len;
	uint32_t payload_len;
	uint32_t payload_at;	/* where its payload begins in the frame's payload */
	uint8_t tcp_flags;
	uint8_t rewritten;	/* its headers differ from the frame's: lengths and flags */
};

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* How many packets a frame is on the wire. */
static inline uint32_t count_segments(const struct packet *p, uint32_t segment_len)
{
	if (!segment_len || p->payload_len <= segment_len)
		return 1;
	return (p->payload_len - 1) / segment_len + 1;
}

/*
 * Packet number @i of the @n that a frame is. FIN and PSH stay on the last one only, CWR on
 * the first (Linux, net/ipv4/tcp_offload.c).
 */
static inline struct segment segment_at(const struct packet *p, uint32_t segment_len, uint32_t i,
					uint32_t n)
{
	struct segment s = {
		.ip_len = p->ip_len,
		.payload_len = p->payload_len,
		.tcp_flags = p->tcp_flags,
		.rewritten = n > 1,
	};

	if (n == 1)
		return s;
	s.payload_at = i * segment_len;
	s.payload_len = min_u32(segment_len, p->payload_len - s.payload_at);
	s.ip_len = p->ip_len - p->payload_len + s.payload_len;
	if (i < n - 1)
		s.tcp_flags &= ~(TCP_FIN | TCP_PSH);
	if (i)
		s.tcp_flags &= ~TCP_CWR;
	return s;
}

#endif /* ETCPIPE_SEGMENT_H */
