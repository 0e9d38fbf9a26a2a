// SPDX-License-Identifier: Apache-2.0
#include "tokens.h"

#define TRANSPORT 20
#define PAYLOAD 40
#define TOK_RAW_LEN 144		/* 60 + 60 + TOK_BYTES - PAYLOAD */
#define NO_BYTE 256.0f

/* Write tokens @first .. @end - 1 from the bytes at @source on, as far as these are there. */
static inline void put_bytes(float *row, int first, int end, const struct kept_bytes *bytes,
			     int source)
{
	int i, at;

	for (i = first + LANE; i < end; i += LANES) {
		at = source + i - first;
		row[i] = at >= 0 && at < bytes->kept ? bytes->raw[at] : NO_BYTE;
	}
}

static inline void put_none(float *row, int first, int end)
{
	int i;

	for (i = first + LANE; i < end; i += LANES)
		row[i] = NO_BYTE;
}

/* All but tokens 2, 3 and 9, which packet_fields have. */
static inline void put_ip_header(float *row, const struct kept_bytes *bytes)
{
	if (is_ipv6(bytes)) {
		put_bytes(row, 0, 2, bytes, 0);		/* version, class */
		put_bytes(row, 4, 6, bytes, 2);		/* flow label for the id */
		put_none(row, 6, 8);
		put_bytes(row, 8, 9, bytes, 7);		/* hop limit */
		put_none(row, 10, TRANSPORT);
	} else {
		put_bytes(row, 0, 2, bytes, 0);
		put_bytes(row, 4, 9, bytes, 4);
		put_bytes(row, 10, TRANSPORT, bytes, 10);
	}
}

static inline void put_transport_header(float *row, const struct kept_bytes *bytes,
					uint8_t protocol, int headers)
{
	int udp = headers - UDP_HEADER;

	if (protocol == IPPROTO_TCP) {
		put_bytes(row, TRANSPORT, PAYLOAD, bytes, transport_at(bytes));
	} else if (protocol == IPPROTO_UDP) {
		put_bytes(row, TRANSPORT, TRANSPORT + 4, bytes, udp);
		put_none(row, TRANSPORT + 4, PAYLOAD - 4);
		put_bytes(row, PAYLOAD - 4, PAYLOAD - 2, bytes, udp + 6);	/* checksum */
		put_bytes(row, PAYLOAD - 2, PAYLOAD, bytes, udp + 4);		/* length */
	} else {
		put_none(row, TRANSPORT, TOK_BYTES);
		return;
	}
	put_bytes(row, PAYLOAD, TOK_BYTES, bytes, headers);
}

/* @headers: bytes from the IP header to the payload. */
static inline void put_tokens(float *row, const struct packet_fields *packet, const uint8_t *raw,
			      uint8_t protocol, int headers)
{
	struct kept_bytes bytes = { raw, packet->raw_len };

	if (bytes.kept > TOK_RAW_LEN)
		bytes.kept = TOK_RAW_LEN;
	put_ip_header(row, &bytes);
	put_transport_header(row, &bytes, protocol, headers);
	if (LANE != 0)
		return;
	row[2] = packet->ip_len >> 8 & 0xff;
	row[3] = packet->ip_len & 0xff;
	row[9] = protocol;
}

/* What is known of a flow's packets before one of them. */
struct packets_before {
	const struct packet_fields *last;
	uint32_t count;
	uint32_t turns;
};

static inline void put_numbers(float *numbers, const struct packet_fields *packet,
			       const struct packets_before *before, int headers)
{
	uint32_t flags = packet->tcp_flags, set = 0;

	for (; flags; flags &= flags - 1)
		set++;
	numbers[0] = (float)(packet->ip_len / 1500.0);
	numbers[1] = 1.0f - 2.0f * packet->direction;
	numbers[3] = (float)(set / 8.0);
	numbers[4] = (float)(packet->payload_len / 1500.0);
	numbers[5] = (float)(headers / 64.0);
	numbers[6] = (float)(before->count / 10.0);
	numbers[7] = (float)(before->turns / 10.0);
}

static inline void put_no_packet(float *row)
{
	int i;

	put_none(row, 0, TOK_BYTES);
	for (i = TOK_BYTES + LANE; i < TOK_ROW; i += LANES)
		row[i] = 0;
}

/* Microseconds from one packet to another, by way of the time since the first one as a double. */
static inline double gap_us(const struct packet_fields *first, const struct packet_fields *last,
			    const struct packet_fields *packet)
{
	double then = (double)(int64_t)(last->timestamp_ns - first->timestamp_ns);
	double now = (double)(int64_t)(packet->timestamp_ns - first->timestamp_ns);

	return now > then ? (now - then) / 1e3 : 0;
}

void tokens_of_flow(const struct kept_flows *flows, uint64_t flow, float *rows, double *gaps_us)
{
	const struct packet_fields *packets = flows->packets + flow * flows->ranks;
	const struct packet_fields *first = NULL;
	const uint8_t *raw = flows->raw + flow * flows->ranks * flows->raw_len;
	float *row = rows + flow * TOK_PACKETS * TOK_ROW;
	struct packets_before before = { NULL, 0, 0 };
	uint32_t rank;

	for (rank = 0; rank < TOK_PACKETS; rank++, row += TOK_ROW, raw += flows->raw_len) {
		const struct packet_fields *packet = packets + rank;
		int headers;

		gaps_us[rank] = 0;
		if (rank >= flows->ranks || before.count >= flows->depth || !packet->present) {
			put_no_packet(row);
			continue;
		}
		headers = headers_len(packet);
		first = first ? first : packet;
		if (before.last) {
			gaps_us[rank] = gap_us(first, before.last, packet);
			before.turns += (packet->direction == 1) != (before.last->direction == 1);
		}
		put_tokens(row, packet, raw, flows->keys[flow].protocol, headers);
		if (LANE == 0)
			put_numbers(row + TOK_BYTES, packet, &before, headers);
		before.last = packet;
		before.count++;
	}
}
