// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: the packet parser as it is compiled for the host. The sanitizers find
 * what it reads beyond the frame; here is what must hold for each packet that it takes.
 * Input: PARSE_ bits, link type, TCI (2 bytes), bytes cut off the end, then the frame.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"

#define HEAD 5
#define PARSE_ALL (PARSE_DECAP | PARSE_KEY_VLAN | PARSE_KEY_TUNNEL)
#define REQUIRE(condition)		\
	do {				\
		if (!(condition))	\
			abort();	\
	} while (0)

static const int link_types[] = {
	LINK_ETHERNET, LINK_NULL, LINK_RAW_BSD, LINK_RAW_OPENBSD, LINK_RAW, LINK_LOOP,
	LINK_SLL, LINK_IPV4, LINK_IPV6, LINK_SLL2, LINK_PPP, LINK_PPP_HDLC, LINK_CISCO_HDLC, 9999,
};

struct input {
	uint8_t *frame;
	size_t size;
	uint32_t wire_len;
	uint32_t options;
	int link_type;
	uint16_t vlan;
};

static int parse(const struct input *in, struct packet *p)
{
	struct cursor c = { in->frame, in->frame + in->size };

	memset(p, 0, sizeof(*p));
	return parse_captured(&c, in->wire_len, in->link_type, in->vlan, in->options, p);
}

static int has_ports(const struct packet *p)
{
	return p->key.protocol == IPPROTO_TCP || p->key.protocol == IPPROTO_UDP ||
	       p->key.protocol == IPPROTO_SCTP;
}

static int compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int compare_ends(const struct flow_key *key)
{
	uint64_t a[2], b[2];
	int order;

	memcpy(a, key->a_addr, sizeof(a));
	memcpy(b, key->b_addr, sizeof(b));
	order = compare(a[0], b[0]);
	if (!order)
		order = compare(a[1], b[1]);
	return order ? order : compare(key->a_port, key->b_port);
}

/* A packet that the short way takes is the one that all steps find. */
static void check_plain(const struct input *in)
{
	struct cursor c = { in->frame, in->frame + in->size };
	struct origin origin = { .frame = c.pos, .wire_len = in->wire_len };
	struct packet plain, whole;

	memset(&plain, 0, sizeof(plain));
	memset(&whole, 0, sizeof(whole));
	if (parse_plain(&c, in->wire_len, in->vlan, &plain)) {
		REQUIRE(!memcmp(&plain, &whole, sizeof(plain)));
		return;
	}
	whole.vlan = in->vlan;
	REQUIRE(!parse_ethernet(&c, &whole, 0, &origin.protocol));
	REQUIRE(!parse_network(&c, &origin, 0, &whole));
	REQUIRE(!memcmp(&plain, &whole, sizeof(plain)));
}

static void check_refused(const struct packet *p)
{
	REQUIRE(p->refusal == PACKETS_NOT_IP || p->refusal == PACKETS_MALFORMED ||
		p->refusal == PACKETS_FRAGMENT);
	REQUIRE((p->refusal == PACKETS_FRAGMENT) == (p->fragment == FRAGMENT_LATER));
}

static void check_parsed(const struct input *in, const struct packet *p)
{
	REQUIRE(p->network_offset < p->transport_offset);
	REQUIRE(p->transport_offset <= p->payload_offset);
	REQUIRE(p->payload_len <= p->ip_len);
	REQUIRE(p->ip_len <= in->wire_len);
	REQUIRE(!has_ports(p) || p->transport_offset + 4u <= in->size);
	REQUIRE(p->key.ip_version == 4 || p->key.ip_version == 6);
	REQUIRE(p->fragment != FRAGMENT_LATER);
	REQUIRE(compare_ends(&p->key) <= 0);
	REQUIRE(in->options & PARSE_KEY_VLAN || !(p->key.zone | p->key.inner_zone));
	REQUIRE(in->options & PARSE_KEY_TUNNEL || !p->key.tunnel);
}

static void swap(uint8_t *bytes, size_t size)
{
	uint8_t kept[16];

	memcpy(kept, bytes, size);
	memcpy(bytes, bytes + size, size);
	memcpy(bytes + size, kept, size);
}

/* The answer to a packet has its key. Not through tunnels: there a port leads inside. */
static void check_answer(const struct input *in, const struct packet *p)
{
	uint8_t *ip = in->frame + p->network_offset;
	struct packet answer;

	if (p->key.ip_version == 4)
		swap(ip + 12, 4);
	else
		swap(ip + 8, 16);
	if (has_ports(p))
		swap(in->frame + p->transport_offset, 2);
	REQUIRE(!parse(in, &answer));
	REQUIRE(!memcmp(&answer.key, &p->key, sizeof(p->key)));
	REQUIRE(answer.from_b != p->from_b || !compare_ends(&p->key));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;
	struct packet p;

	if (size < HEAD)
		return 0;
	in.options = data[0] & PARSE_ALL;
	in.link_type = link_types[data[1] % (sizeof(link_types) / sizeof(*link_types))];
	in.vlan = data[2] << 8 | data[3];
	in.size = size - HEAD;
	in.wire_len = in.size;
	in.size -= data[4] < in.size ? data[4] : in.size;
	in.frame = malloc(in.size ? in.size : 1);	/* of its own, so that its end is guarded */
	REQUIRE(in.frame);
	memcpy(in.frame, data + HEAD, in.size);
	check_plain(&in);
	if (parse(&in, &p)) {
		check_refused(&p);
	} else {
		check_parsed(&in, &p);
		if (!(in.options & PARSE_DECAP))
			check_answer(&in, &p);
	}
	free(in.frame);
	return 0;
}
