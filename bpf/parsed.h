/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The parser as the programs call it: in functions that the verifier walks once and alone.
 * They take the context and nothing else, as Linux before 5.12 wants it, and leave what they
 * find in this CPU's scratch, whose content the verifier of their callers does not follow: it
 * would else walk all that comes after once more for each way through the headers.
 */
#ifndef ETCPIPE_PARSED_H
#define ETCPIPE_PARSED_H

#include "maps.h"

#define HEADERS_MAX 512		/* bytes made linear where a packet's headers are not */

#ifdef ETCPIPE_BCC
#define VERIFIED_ALONE static __always_inline	/* bcc has no functions that are called */
#else
#define VERIFIED_ALONE __attribute__((noinline))
#endif

/* The bytes of a packet. A number at once: clang may keep the two ends in 4 bytes each. */
static __always_inline __u32 len_xdp(struct xdp_md *ctx)
{
	__u64 len = (void *)(long)ctx->data_end - (void *)(long)ctx->data;

	OPAQUE(len);
	return len;
}

/*
 * Take a parser's step from the frame's first byte. Who calls it reads the ends anew, and they are
 * whole here: in the one piece that bcc makes, clang 19 would keep 4 bytes of what was read
 * before, and the verifier takes no shift of an end.
 */
static __always_inline int step(void *frame, void *end)
{
	struct scratch *s = scratch();
	struct cursor c;

	OPAQUE(frame);
	OPAQUE(end);
	c = (struct cursor){ frame, end };
	return s ? parse_step(&c, &s->layers, frame, SETTING(parse), &s->packet) : 1;
}

VERIFIED_ALONE int step_skb(struct __sk_buff *skb)
{
	OPAQUE(skb);
	return step((void *)(long)skb->data, (void *)(long)skb->data_end);
}

VERIFIED_ALONE int step_xdp(struct xdp_md *ctx)
{
	OPAQUE(ctx);
	return step((void *)(long)ctx->data, (void *)(long)ctx->data_end);
}

/* Parse a frame up to its outermost IP packet. */
static __always_inline int begin(struct cursor *c, __u32 len, __u16 vlan, struct scratch *s)
{
	struct origin origin = { .frame = c->pos, .wire_len = len };

	s->packet.vlan = vlan;
	if (parse_ethernet(c, &s->packet, SETTING(parse), &origin.protocol))
		return -1;
	return parse_outermost(c, &origin, SETTING(parse), &s->layers, &s->packet);
}

/* Parse a frame into the scratch. */
static __always_inline int parse_context(void *ctx, int is_xdp, struct cursor *c, __u32 len,
					 __u16 vlan)
{
	struct scratch *s = scratch();
	int i;

	if (!s)
		return -1;
	__builtin_memset(&s->packet, 0, sizeof(s->packet));
	if (!(SETTING(parse) & PARSE_DECAP))
		return parse_frame(c, len, vlan, SETTING(parse) & ~PARSE_DECAP, &s->packet);
	if (begin(c, len, vlan, s))
		return -1;
NO_UNROLL
	for (i = 0; i < LAYERS_MAX; i++)
		if (is_xdp ? step_xdp(ctx) : step_skb(ctx))
			break;
	return parse_finish(&s->layers, &s->packet);
}

/* Parse what is linear of a packet. */
VERIFIED_ALONE int parse_linear(struct __sk_buff *skb)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	__u16 vlan = skb->vlan_present ? skb->vlan_tci : VLAN_NONE;

	return parse_context(skb, 0, &c, skb->len, vlan);
}

VERIFIED_ALONE int parse_xdp(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };

	return parse_context(ctx, 1, &c, len_xdp(ctx), VLAN_NONE);
}

/* Where this file's functions leave the packet. It is there: NULL is for the verifier. */
static __always_inline struct packet *parsed(void)
{
	struct scratch *s = scratch();

	return s ? &s->packet : NULL;
}

/*
 * Make a packet's headers linear; returns 0, or -1 where they are already. The lengths are read
 * here: what lives through the parser multiplies what the verifier walks of it.
 */
static __always_inline int pull_headers(struct __sk_buff *skb)
{
	__u32 linear, wanted;

	OPAQUE(skb);
	wanted = skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX;
	linear = skb->data_end - skb->data;
	return linear >= wanted || bpf_skb_pull_data(skb, wanted) ? -1 : 0;
}

/*
 * Parse a packet into @p, the scratch's: here where it is a plain one, which takes half of the
 * time. Its headers are made linear only where that failed, as it costs a copy of them.
 */
static __always_inline int parse_skb(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	__u16 vlan = skb->vlan_present ? skb->vlan_tci : VLAN_NONE;
	int error;

	if (!SETTING(parse) && !parse_plain(&c, skb->len, vlan, p))
		return 0;
	error = parse_linear(skb);
	if (p->refusal != PACKETS_MALFORMED || pull_headers(skb))
		return error;
	return parse_linear(skb);
}

#endif /* ETCPIPE_PARSED_H */
