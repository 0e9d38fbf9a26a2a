// SPDX-License-Identifier: Apache-2.0
/*
 * What of a TLS record may be seen: headers, lengths and the negotiated parameters
 * (RFC 8446; RFC 5246 for TLS 1.2). Names, keys, randoms, tickets and certificates are zero,
 * encrypted bytes stay hidden. A message is shown as far as this packet holds it; what
 * continues in the next packet is hidden there, as no TLS record begins with it.
 */
#include "mask.h"

#include <stddef.h>

#define RECORD_HEADER 5
#define RECORD_HANDSHAKE 22
#define RECORD_TYPE_MIN 20	/* change_cipher_spec */
#define RECORD_TYPE_MAX 24	/* heartbeat */
#define RECORD_LEN_MAX (16384 + 2048)	/* RFC 5246, 6.2.3 */
#define MESSAGE_HEADER 4
#define CLIENT_HELLO 1
#define SERVER_HELLO 2
#define RANDOM_LEN 32
#define SESSION_ID_MAX 32

/* A part of the payload: where the structure ends, and how much of it this packet holds. */
struct part {
	const uint8_t *payload;
	uint32_t at;
	uint32_t end;
	uint32_t there;		/* bytes of the payload that can be read */
};

static uint32_t get_u16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

static uint32_t get_u24(const uint8_t *p)
{
	return p[0] << 16 | p[1] << 8 | p[2];
}

static int is_record(const uint8_t *p)
{
	uint32_t len = get_u16(p + 3);

	return p[0] >= RECORD_TYPE_MIN && p[0] <= RECORD_TYPE_MAX && p[1] == 3 && p[2] <= 4 &&
	       len > 0 && len <= RECORD_LEN_MAX;
}

/* Handshake message types of TLS 1.0 to 1.3 (IANA). */
static int is_message(uint8_t type)
{
	return type <= 6 || type == 8 || (type >= 11 && type <= 16) ||
	       (type >= 20 && type <= 25) || type == 67 || type == 254;
}

/* Extensions whose body is a list of code points: nothing of the user, host or session. */
static int is_shown_extension(uint32_t type)
{
	switch (type) {
	case 10:	/* supported_groups */
	case 11:	/* ec_point_formats */
	case 13:	/* signature_algorithms */
	case 27:	/* compress_certificate */
	case 28:	/* record_size_limit */
	case 43:	/* supported_versions */
	case 45:	/* psk_key_exchange_modes */
		return 1;
	}
	return 0;
}

/* Keep the next @len bytes and return them, or NULL if they are cut or beyond the structure. */
static const uint8_t *take(struct raw_view *view, struct part *part, uint32_t len)
{
	const uint8_t *bytes = part->payload + part->at;

	if (part->end - part->at < len)
		return NULL;
	view_keep_payload(view, part->at, len);
	part->at += len;
	return part->at <= part->there ? bytes : NULL;
}

/* Pass the next @len bytes, which stay zero. */
static int pass(struct part *part, uint32_t len)
{
	if (part->end - part->at < len)
		return -1;
	part->at += len;
	return part->at <= part->there ? 0 : -1;
}

static void show_extensions(struct raw_view *view, struct part *part)
{
	const uint8_t *bytes = take(view, part, 2);

	if (!bytes || get_u16(bytes) > part->end - part->at)
		return;
	part->end = part->at + get_u16(bytes);
	while ((bytes = take(view, part, 4))) {
		uint32_t len = get_u16(bytes + 2);

		if (is_shown_extension(get_u16(bytes)) ? !take(view, part, len) : pass(part, len))
			return;
	}
}

/* Show a ClientHello's or ServerHello's parameters (RFC 8446, 4.1.2 and 4.1.3). */
static void show_hello(struct raw_view *view, struct part part, uint8_t type)
{
	const uint8_t *bytes = take(view, &part, 2);	/* legacy_version */

	if (!bytes || pass(&part, RANDOM_LEN))
		return;
	bytes = take(view, &part, 1);
	if (!bytes || *bytes > SESSION_ID_MAX || pass(&part, *bytes))
		return;
	if (type == CLIENT_HELLO) {
		bytes = take(view, &part, 2);
		if (!bytes || !take(view, &part, get_u16(bytes)))	/* cipher suites */
			return;
		bytes = take(view, &part, 1);
		if (!bytes || !take(view, &part, *bytes))	/* compression methods */
			return;
	} else if (!take(view, &part, 3)) {	/* cipher suite, compression method */
		return;
	}
	show_extensions(view, &part);
}

/*
 * Handshake messages fill their record exactly. An encrypted one does not look so: its
 * "types" and "lengths" are random, and 40 random bytes pass here once in 10^6 or less.
 */
static int messages_fill(struct part part)
{
	while (part.at < part.end) {
		const uint8_t *message = part.payload + part.at;

		if (part.end - part.at < MESSAGE_HEADER)
			return 0;
		if (part.there < part.at + MESSAGE_HEADER)
			return 1;	/* cut by the packet's end: right so far */
		if (!is_message(*message) ||
		    get_u24(message + 1) > part.end - part.at - MESSAGE_HEADER)
			return 0;
		part.at += MESSAGE_HEADER + get_u24(message + 1);
	}
	return 1;
}

static void show_messages(struct raw_view *view, struct part part)
{
	while (part.at < part.end && part.there >= part.at + MESSAGE_HEADER) {
		const uint8_t *message = part.payload + part.at;
		struct part body = part;

		body.at = part.at + MESSAGE_HEADER;
		body.end = body.at + get_u24(message + 1);
		view_keep_payload(view, part.at, MESSAGE_HEADER);
		view_zero_payload(view, body.at, body.end - body.at);
		if (*message == CLIENT_HELLO || *message == SERVER_HELLO)
			show_hello(view, body, *message);
		part.at = body.end;
	}
}

void mask_tls(struct raw_view *view)
{
	const uint8_t *payload = view->frame.data + view->payload_from;
	uint32_t there = view->payload_len;
	uint32_t at = 0;

	while (at + RECORD_HEADER <= there && is_record(payload + at)) {
		struct part body = {
			.payload = payload,
			.at = at + RECORD_HEADER,
			.end = at + RECORD_HEADER + get_u16(payload + at + 3),
			.there = there,
		};

		view_keep_payload(view, at, RECORD_HEADER);
		if (payload[at] == RECORD_HANDSHAKE && messages_fill(body))
			show_messages(view, body);
		at = body.end;
	}
}
