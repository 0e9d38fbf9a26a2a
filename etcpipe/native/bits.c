// SPDX-License-Identifier: Apache-2.0
#include "bits.h"

/* Bytes of the parts, in their order. */
#define IPV4_PART 60
#define IPV6_PART 40
#define TCP_PART 60
#define PAYLOAD_PART 24
#define BITS_RAW_LEN (IPV4_PART + TCP_PART + PAYLOAD_PART)

#define ABSENT (~0ull)		/* eight columns of -1 */

/*
 * Eight columns of a byte, highest bit first. Each factor 1 << 9 i moves the bit 7 - i to the
 * place 8 i + 7, and nothing carries.
 */
static inline uint64_t columns_of(uint8_t byte)
{
	return byte * 0x8040201008040201ull >> 7 & 0x0101010101010101ull;
}

static inline void put_absent(uint64_t *to, int first, int end)
{
	int i;

	for (i = first + LANE; i < end; i += LANES)
		to[i] = ABSENT;
}

/* Write a part of @len bytes that begins at @source, as far as the packet has it before @end. */
static inline uint64_t *put_part(uint64_t *to, int len, const struct kept_bytes *bytes,
				 int source, int end)
{
	int first = source < 0 ? -source : 0, last, i;

	last = (end < bytes->kept ? end : bytes->kept) - source;
	last = last < len ? last : len;
	if (last < first)
		last = first = 0;
	put_absent(to, 0, first);
	for (i = first + LANE; i < last; i += LANES)
		to[i] = columns_of(bytes->raw[source + i]);
	put_absent(to, last, len);
	return to + len;
}

static inline void put_packet(uint64_t *to, const struct packet_fields *packet,
			      const uint8_t *raw, uint8_t protocol)
{
	bool is_tcp = protocol == IPPROTO_TCP, is_udp = protocol == IPPROTO_UDP;
	struct kept_bytes bytes = { raw, packet->raw_len };
	int headers = headers_len(packet), transport;

	if (bytes.kept > BITS_RAW_LEN)
		bytes.kept = BITS_RAW_LEN;
	transport = transport_at(&bytes);
	to = put_part(to, IPV4_PART, &bytes, 0, is_ipv6(&bytes) ? 0 : transport);
	to = put_part(to, IPV6_PART, &bytes, 0, is_ipv6(&bytes) ? IPV6_PART : 0);
	to = put_part(to, TCP_PART, &bytes, transport, is_tcp ? headers : 0);
	to = put_part(to, UDP_HEADER, &bytes, headers - UDP_HEADER, is_udp ? headers : 0);
	put_part(to, PAYLOAD_PART, &bytes, headers, is_tcp || is_udp ? BITS_RAW_LEN : 0);
}

void bits_of_flow(const struct kept_flows *flows, uint64_t flow, int8_t *rows)
{
	const struct packet_fields *packets = flows->packets + flow * flows->ranks;
	const uint8_t *raw = flows->raw + flow * flows->ranks * flows->raw_len;
	uint64_t *to = (uint64_t *)(rows + flow * BITS_ROW);
	uint32_t rank, count = 0;

	for (rank = 0; rank < BITS_PACKETS; rank++, to += BITS_BYTES, raw += flows->raw_len) {
		if (rank < flows->ranks && count < flows->depth && packets[rank].present) {
			put_packet(to, packets + rank, raw, flows->keys[flow].protocol);
			count++;
		} else {
			put_absent(to, 0, BITS_BYTES);
		}
	}
}
