/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes of packets as regrouping kept them, for the views that show their fields. Compiled for
 * the CPU and, by gpu/views.cu, for a GPU.
 */
#ifndef ETCPIPE_PACKET_BYTES_H
#define ETCPIPE_PACKET_BYTES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "etcpipe.h"

#define UDP_HEADER 8
#define EXTENSIONS_MAX 6

/* On a GPU the lanes of a warp take the same way and share the bytes. */
#ifndef LANES
#define LANE 0
#define LANES 1
#endif

/* Flows as regrouping made them; the caller keeps the arrays alive. */
struct kept_flows {
	const struct flow_key *keys;
	const struct packet_fields *packets;	/* [flows][ranks] */
	const uint8_t *raw;			/* [flows][ranks][raw_len] */
	uint32_t ranks;
	uint32_t raw_len;
	uint32_t depth;				/* first packets that are there and count */
};

/* A packet's bytes from the IP header on, of which `kept` are there. */
struct kept_bytes {
	const uint8_t *raw;
	int kept;
};

static inline bool is_ipv6(const struct kept_bytes *bytes)
{
	return bytes->raw[0] >> 4 == 6;
}

static inline bool is_extension(uint8_t kind)
{
	return kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_FRAGMENT ||
	       kind == IPPROTO_AH || kind == IPPROTO_DSTOPTS;
}

/* Where what follows the extension headers of IPv6 begins. */
static inline int behind_extensions(const struct kept_bytes *bytes)
{
	const uint8_t *raw = bytes->raw;
	uint8_t kind = raw[6];
	int at = 40, i, size;

	for (i = 0; i < EXTENSIONS_MAX && is_extension(kind) && at + 2 <= bytes->kept; i++) {
		if (kind == IPPROTO_FRAGMENT)
			size = 8;
		else if (kind == IPPROTO_AH)
			size = (raw[at + 1] + 2) * 4;
		else
			size = (raw[at + 1] + 1) * 8;
		kind = raw[at];
		at += size;
	}
	return at;
}

/* Where the transport header begins, if there is one. */
static inline int transport_at(const struct kept_bytes *bytes)
{
	return is_ipv6(bytes) ? behind_extensions(bytes) : (bytes->raw[0] & 0x0f) * 4;
}

/* Bytes from the IP header to the payload; of packets that make no sense any number. */
static inline int headers_len(const struct packet_fields *packet)
{
	return (int)packet->ip_len - (int)packet->payload_len;
}

#endif /* ETCPIPE_PACKET_BYTES_H */
