/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Copies to the consumer, by the way that the settings name: an AF_XDP mirror (mirror.h) or
 * a ring buffer (records.h). Each packet of the wire gets a copy of its own, also where the
 * hook sees many at once, and each one that is not copied is counted and told to its flow.
 */
#ifndef ETCPIPE_CAPTURE_H
#define ETCPIPE_CAPTURE_H

#include "mirror.h"
#include "records.h"

/* Returns 0, or -1: the packet is lost, and counted under its reason. */
static __always_inline int capture_one(struct __sk_buff *skb, const struct mark *mark,
				       const struct segment_cut *cut)
{
	if (SETTING(capture) != CAPTURE_RINGBUF)
		return mirror_one(skb, mark, cut);
	if (record_skb(skb, mark, cut))
		return -1;
	count(PACKETS_CLONED);
	return 0;
}

/* Copy a packet, or a super-packet's that are among the first N. Returns how many are lost. */
static __always_inline __u32 capture_skb(struct __sk_buff *skb, const struct packet *p,
					 const struct mark *mark, __u32 segments)
{
	__u32 size = skb->gso_size, n = segments_in(p, size, skb->gso_segs), lost = 0, i;
	struct segment_cut cut = {};

	if (n == 1)
		return capture_one(skb, mark, &cut) ? segments : 0;
NO_UNROLL
	for (i = 0; i < FIRST_N_MAX; i++) {
		if (i >= n || mark->rank + i >= SETTING(first_n))
			break;
		cut = segment_cut(p, size, i);
		lost += capture_one(skb, mark, &cut) != 0;
	}
	return lost;
}

/* A packet that XDP marked: it came so from the wire. */
static __always_inline int capture_marked(struct __sk_buff *skb, const struct mark *mark)
{
	const struct segment_cut whole = {};

	return capture_one(skb, mark, &whole);
}

/* XDP marked this packet and its copy failed: find its flow to tell it. */
static __always_inline void tell_lost(struct __sk_buff *skb)
{
	struct flow_state *flow;
	struct packet p;

	if (parse_skb(skb, &p))
		return;
	flow = flows_find(&p.key);
	if (flow)
		flow->lost++;
}

#endif /* ETCPIPE_CAPTURE_H */
