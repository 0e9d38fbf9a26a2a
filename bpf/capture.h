/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Copies to the consumer, by the way that the settings name: an AF_XDP mirror (mirror.h) or
 * a ring buffer (records.h); or none, as the kernel gathers features itself (gather.h). Each
 * packet of the wire gets a copy of its own, also where the hook sees many at once, and each one
 * that is not copied is counted and told to its flow.
 */
#ifndef ETCPIPE_CAPTURE_H
#define ETCPIPE_CAPTURE_H

#include "features_maps.h"
#include "mirror.h"
#include "records.h"
/*
 * bcc compiles what is asked for: the rest takes half of its time. Last, as what others include
 * too must not be left out with it.
 */
#ifndef ETCPIPE_NO_GATHER
#include "gather.h"
#else
#define gather_settles(p, mark, segments, flow) 0
#define gather_settles_segment(skb, mark, segments, flow, index) 0
#endif

/* Copy a packet. Returns 0, or -1: it is lost, and counted under its reason. */
static __always_inline int capture_one(struct __sk_buff *skb, const struct mark *mark)
{
	const struct segment_cut whole = {};

	if (SETTING(capture) == CAPTURE_RINGBUF)
		return record_skb(skb, mark);
	return mirror_one(skb, mark, &whole);
}

/* A frame of one packet, or of @segments that cannot be told apart: one of them arrives. */
static __always_inline __u32 capture_undivided(struct __sk_buff *skb, const struct mark *mark,
					       __u32 segments)
{
	__u32 left = SETTING(first_n) - mark->rank, others = 0;

	if (segments > 1) {
		others = (segments < left ? segments : left) - 1;
		count_n(PACKETS_CLONE_FAILED, others);
	}
	return others + (capture_one(skb, mark) != 0);
}

/*
 * Copy one packet of the super-packet that was parsed last. Returns 1 if it is lost. In the loop
 * below, the verifier would walk all of this again for every packet. What it needs of the mark
 * comes in registers, since functions take no pointers to the stack before Linux 5.13.
 */
VERIFIED_ALONE int capture_segment(struct __sk_buff *skb, __u64 flow_id, __u64 timestamp_ns,
				   __u32 rank_and_direction, __u32 index)
{
	const struct mark mark = {
		.flow_id = flow_id,
		.timestamp_ns = timestamp_ns,
		.rank = rank_and_direction >> 8,
		.direction = rank_and_direction,
	};
	struct packet *p = parsed();
	struct segment_cut cut;

	if (!p)
		return 1;
	cut = segment_cut(p, skb->gso_size, index);
	if (SETTING(capture) == CAPTURE_RINGBUF)
		return record_segment(skb, &mark, &cut) != 0;
	return mirror_one(skb, &mark, &cut) != 0;
}

/*
 * Copy a packet, or a super-packet's that are among the first N; @p is what parsed() returns.
 * Returns how many are lost.
 */
static __always_inline __u32 capture_skb(struct __sk_buff *skb, const struct packet *p,
					 const struct mark *mark, __u32 segments,
					 struct flow_state *flow)
{
	__u32 n = segments_in(p, skb->gso_size, skb->gso_segs), lost = 0, i;

#ifndef ETCPIPE_NO_GATHER
	if (SETTING(capture) == CAPTURE_FEATURES)
		return gather_skb(skb, p, mark, segments, flow);
#endif
	if (n == 1)
		return gather_settles(p, mark, segments, flow) ? 0 :
			capture_undivided(skb, mark, segments);
NO_UNROLL
	for (i = 0; i < FIRST_N_MAX; i++) {
		if (i >= n || mark->rank + i >= SETTING(first_n) ||
		    gather_settles_segment(skb, mark, segments, flow, i))
			break;
		lost += capture_segment(skb, mark->flow_id, mark->timestamp_ns,
					mark->rank << 8 | mark->direction, i);
	}
	return lost;
}

/* The same where XDP can take a packet by itself. Returns 1 if it is lost. */
static __always_inline __u32 capture_xdp(struct xdp_md *ctx, const struct packet *p,
					 const struct mark *mark, struct flow_state *flow)
{
#ifndef ETCPIPE_NO_GATHER
	if (SETTING(capture) == CAPTURE_FEATURES)
		return gather_one(p, mark, flow);
#endif
	return record_xdp(ctx, mark, p) != 0;
}

/* XDP marked this packet and its copy failed: find its flow to tell it. */
static __always_inline void tell_lost(struct __sk_buff *skb)
{
	struct packet *p = parsed();
	struct flow_state *flow;

	if (!p || parse_linear(skb))	/* XDP has read the headers: they are linear */
		return;
	flow = flows_find(p);
	if (flow)
		flow->lost++;
}

#endif /* ETCPIPE_CAPTURE_H */
