// SPDX-License-Identifier: Apache-2.0
#include "mask.h"

#include <string.h>

#define IPV6_HEADER_LEN 40
#define IPV4_HEADER_LEN 20
#define TCP_HEADER_LEN 20
#define OPTION_END 0		/* IPv4 (RFC 791) and TCP (RFC 9293) share these */
#define OPTION_NOP 1

/* Copy header bytes that begin @at bytes behind the IP header's first. */
static void keep(struct raw_view *view, uint32_t at, uint32_t len)
{
	uint32_t end = min_u32(at + len, min_u32(view->header_len, view->len));

	end = min_u32(end, view->frame.captured - view->header_from);
	if (at < end)
		memcpy(view->out + at, view->frame.data + view->header_from + at, end - at);
}

void view_keep_payload(struct raw_view *view, uint32_t at, uint32_t len)
{
	uint32_t room = view->len > view->header_len ? view->len - view->header_len : 0;
	uint32_t end = min_u32(at + len, min_u32(view->payload_len, room));

	if (at < end)
		memcpy(view->out + view->header_len + at,
		       view->frame.data + view->payload_from + at, end - at);
}

void view_zero_payload(struct raw_view *view, uint32_t at, uint32_t len)
{
	uint32_t room = view->len > view->header_len ? view->len - view->header_len : 0;
	uint32_t end = min_u32(at + len, room);

	if (at < end)
		memset(view->out + view->header_len + at, 0, end - at);
}

/* Keep kinds and lengths of the options in [@at, @end); values stay zero. */
static void keep_options(struct raw_view *view, uint32_t at, uint32_t end)
{
	const uint8_t *header = view->frame.data + view->header_from;
	uint32_t there = min_u32(end, view->frame.captured - view->header_from);

	while (at < there && header[at] != OPTION_END) {
		if (header[at] == OPTION_NOP) {
			keep(view, at++, 1);
			continue;
		}
		if (at + 1 >= there || header[at + 1] < 2 || at + header[at + 1] > end)
			return;		/* not an option: the rest stays zero */
		keep(view, at, 2);
		at += header[at + 1];
	}
}

static void keep_ipv4(struct raw_view *view, uint32_t header_len)
{
	keep(view, 0, 1);	/* version, header length */
	keep(view, 2, 2);	/* total length */
	keep(view, 6, 2);	/* fragment flags; the offset is 0 */
	keep(view, 9, 1);	/* protocol */
	keep_options(view, IPV4_HEADER_LEN, header_len);
}

/* Keep the IPv6 header's fixed part, and next header and length of the extensions behind it. */
static void keep_ipv6(struct raw_view *view, uint32_t header_len)
{
	const uint8_t *header = view->frame.data + view->header_from;
	uint32_t there = view->frame.captured - view->header_from;
	uint32_t at = IPV6_HEADER_LEN;
	uint8_t kind = header[6];

	if (view->len)
		view->out[0] = header[0] & 0xf0;	/* version without traffic class */
	keep(view, 4, 3);	/* payload length, next header */
	while (at < header_len && at + 2 <= there) {
		uint8_t next = header[at];

		keep(view, at, kind == IPPROTO_FRAGMENT ? 1 : 2);
		if (kind == IPPROTO_FRAGMENT)
			at += 8;
		else if (kind == IPPROTO_AH)
			at += (header[at + 1] + 2) * 4;
		else
			at += (header[at + 1] + 1) * 8;
		kind = next;
	}
}

static void keep_tcp(struct raw_view *view, uint32_t at, enum mask mask)
{
	keep(view, at + 12, 2);	/* header length, flags */
	if (mask == MASK_STANDARD)
		keep(view, at + 14, 2);	/* window */
	keep_options(view, at + TCP_HEADER_LEN, view->header_len);
}

static void write_u16(struct raw_view *view, uint32_t at, uint32_t value)
{
	if (at + 2 <= view->len) {
		view->out[at] = value >> 8;
		view->out[at + 1] = value;
	} else if (at < view->len) {
		view->out[at] = value >> 8;
	}
}

/* Give a segment of a super-packet the lengths and flags that it has on the wire. */
static void rewrite_headers(struct raw_view *view, const struct packet *p,
			    const struct segment *segment)
{
	uint32_t transport = p->transport_offset - p->network_offset;

	if (p->key.ip_version == 4)
		write_u16(view, 2, segment->ip_len);
	else
		write_u16(view, 4, segment->ip_len - IPV6_HEADER_LEN);
	if (p->key.protocol == IPPROTO_UDP)
		write_u16(view, transport + 4, segment->payload_len + sizeof(struct udphdr));
	else if (transport + 13 < view->len)
		view->out[transport + 13] = segment->tcp_flags;
}

/* Everything is hidden unless it is kept by name. */
static void mask_fields(struct raw_view *view, const struct packet *p, enum mask mask)
{
	uint32_t transport = p->transport_offset - p->network_offset;
	uint32_t headers = min_u32(view->header_len, view->len);

	memset(view->out, 0, headers);
	memset(view->out + headers, PAYLOAD_HIDDEN, view->len - headers);
	if (p->key.ip_version == 4)
		keep_ipv4(view, transport);
	else
		keep_ipv6(view, transport);
	if (p->key.protocol == IPPROTO_TCP) {
		keep_tcp(view, transport, mask);
		mask_tls(view);
	} else if (p->key.protocol == IPPROTO_UDP) {
		keep(view, transport + 4, 2);	/* length */
	}
}

uint32_t mask_packet(uint8_t *out, uint32_t room, const struct frame *frame,
		     const struct packet *p, const struct segment *segment, enum mask mask)
{
	uint32_t payload_from = p->payload_offset + segment->payload_at;
	uint32_t header_len = p->payload_offset - p->network_offset;
	uint32_t captured = frame->captured > payload_from ? frame->captured - payload_from : 0;
	struct raw_view view = {
		.out = out,
		.len = min_u32(room, segment->ip_len),
		.frame = *frame,
		.header_from = p->network_offset,
		.header_len = header_len,
		.payload_from = payload_from,
		.payload_len = segment->ip_len > header_len ?
				       min_u32(captured, segment->ip_len - header_len) : 0,
	};

	if (mask == MASK_NONE) {
		uint32_t headers = min_u32(header_len, frame->captured - p->network_offset);

		/* an unknown byte has no value: cut where the capture is cut */
		view.len = min_u32(view.len, headers + view.payload_len);
		keep(&view, 0, header_len);
		view_keep_payload(&view, 0, view.payload_len);
	} else {
		mask_fields(&view, p, mask);
	}
	if (segment->rewritten)
		rewrite_headers(&view, p, segment);
	return view.len;
}
