/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Finds or creates a packet's flow in the kernel's table and marks the packets to be mirrored.
 * flows.h has the rules that this shares with captures.
 */
#ifndef ETCPIPE_TRACK_H
#define ETCPIPE_TRACK_H

#include "insert.h"
#include "verdict.h"

/* Describes a packet that must be mirrored; XDP passes it to TC as metadata. */
struct mark {
	__u64 flow_id;
	__u64 timestamp_ns;
	__u32 magic;
	__u16 rank;
	__u8 direction;
	__u8 action;		/* of the flow's verdict; 0 if none */
};

/* Differs by device: a tap on a stacked device must not take this tap's marks for its own. */
static __always_inline __u32 mark_magic(void)
{
	return 0xe7c00000 ^ SETTING(device_ifindex);
}

/* The helper needs Linux 5.11; the plain object and bcc must run on older kernels, too. */
static __always_inline __u64 clock_coarse_ns(void)
{
#ifdef ETCPIPE_FETCH_ADD
	return bpf_ktime_get_coarse_ns();
#else
	return bpf_ktime_get_ns();
#endif
}

/*
 * Begin a flow. It replaces @old, a flow of the same key that is over, if there is one. That
 * counts as a restart, unless user space has already removed @old and counts it as ended.
 */
static __always_inline struct flow_state *flow_create(struct packet *p, __u64 now,
						      const struct flow_state *old)
{
	__u64 flow_id = flow_id_next(), old_id = old ? old->flow_id : 0, replaced = 0;
	struct flow_state flow, *created;

	flow_begin(&flow, p, flow_id, now);
	created = flows_put(p, &flow, old_id, &replaced);
	if (!created) {
		count(PACKETS_TABLE_FULL);
		return NULL;
	}
	/* otherwise another CPU has created the flow first, under its own id, and counts it */
	if (created->flow_id == flow_id)
		count(replaced && replaced == old_id ? FLOWS_RESTARTED : FLOWS_CREATED);
	return created;
}

static __always_inline int flow_is_over(const struct flow_state *flow, const struct packet *p,
					__u64 now)
{
	const struct flow_timeouts timeouts = {
		.establish_ns = SETTING(establish_ns),
		.idle_ns = SETTING(idle_ns),
		.tombstone_ns = SETTING(tombstone_ns),
	};

	return flow_restarts(flow, p, now, &timeouts);
}

static __always_inline __u64 verdict_load(__u32 slot)
{
#ifdef ETCPIPE_BCC
	__u64 *word = verdicts.lookup(&slot);
#else
	__u64 *word = bpf_map_lookup_elem(&verdicts, &slot);
#endif

	return word ? *word : 0;
}

static __always_inline void verdict_store(__u32 slot, __u64 verdict)
{
#ifdef ETCPIPE_BCC
	__u64 *word = verdicts.lookup(&slot);
#else
	__u64 *word = bpf_map_lookup_elem(&verdicts, &slot);
#endif

	if (word)
		*word = verdict;
}

/* Returns the flow's verdict, or 0 while it has none. */
static __always_inline __u64 flow_verdict(const struct flow_state *flow)
{
	__u32 slot = verdict_slot(flow->flow_id, SETTING(slots));

	return verdict_of(verdict_load(slot), flow->flow_id);
}

/* Does the classifier still want packets of this flow? Not past N or after a final verdict. */
static __always_inline int flow_is_watched(const struct flow_state *flow)
{
	if (flow->counted >= SETTING(first_n))
		return 0;
	return !flow->counted || !verdict_is_final(flow_verdict(flow));
}

/*
 * Returns the time of a packet of a known flow. It is exact while the flow is watched. Later
 * it only serves the timeouts, for which the coarse clock suffices: it lags by up to one timer
 * tick, 1 to 10 ms. The exact clock would cost 40 of the 100 ns that a packet takes. Since the
 * coarse clock may lag behind an exact time read earlier, the result is at least last_ns.
 */
static __always_inline __u64 flow_clock(const struct flow_state *flow, int is_watched)
{
	__u64 now;

	if (is_watched)
		return bpf_ktime_get_ns();
	now = clock_coarse_ns();
	return (long long)(now - flow->last_ns) < 0 ? flow->last_ns : now;
}

/*
 * Returns the action of the flow's verdict. The flow keeps a copy of the verdict, because a
 * newer flow takes over the slot after as many flows as there are slots: seconds in a flood.
 */
static __always_inline __u8 flow_action(struct flow_state *flow)
{
	__u64 word;

	if (!SETTING(policy))
		return 0;
	word = flow_verdict(flow);
	if (word && flow->verdict != (__u16)word)
		flow->verdict = word;
	return flow->verdict >> VERDICT_ACTION_SHIFT;
}

/* Account a packet to its flow. Returns the flow and fills @mark if it must be mirrored. */
static __always_inline struct flow_state *track(struct packet *p, __u32 wire_len,
						__u32 segments, struct mark *mark)
{
	struct flow_state *flow;
	__u32 rank, wanted;
	int is_watched;
	__u64 now;

	if (!flow_is_sampled(&p->key, SETTING(sample_every), SETTING(sample_seed))) {
		count(PACKETS_UNSAMPLED);
		return NULL;
	}
	flow = flows_find(p);
	is_watched = !flow || flow_is_watched(flow);
	now = flow ? flow_clock(flow, is_watched) : 0;
	if (!flow || flow_is_over(flow, p, now)) {
		now = bpf_ktime_get_ns();
		flow = flow_create(p, now, flow);
		is_watched = 1;
	}
	if (!flow)
		return NULL;
	count(PACKETS_TRACKED);
	mark->flow_id = flow->flow_id;	/* past N, too: the verdict still acts */
	mark->action = flow_action(flow);
	rank = flow_update(flow, p, wire_len, segments, now, SETTING(count_rule));
	if (rank >= SETTING(first_n))
		return NULL;
	wanted = SETTING(first_n) - rank;
	if (segments < wanted)
		wanted = segments;
	count_n(PACKETS_FIRST_N, wanted);
	/* the verdict is final: the classifier needs no more packets of this flow */
	if (!is_watched) {
		count_n(PACKETS_SETTLED, wanted);
		return NULL;
	}
	mark->timestamp_ns = now;
	mark->magic = mark_magic();
	mark->rank = rank;
	mark->direction = flow_direction(flow, p);
	return flow;
}

/* Note which flow a first fragment belongs to. */
static __always_inline void remember_fragment(struct packet *p)
{
	struct fragment_flow flow;

	if (p->fragment != FRAGMENT_FIRST)
		return;
	flow = (struct fragment_flow){
		.key = p->key,
		.from_b = p->from_b,
		.seen_ns = bpf_ktime_get_ns(),
	};
	fragments_put(&p->fragment_key, &flow);
}

/* Give a later fragment the key of the first one, if its flow is still in the table. */
static __always_inline int join_fragment(struct packet *p)
{
	struct fragment_flow *flow;

	if (p->fragment != FRAGMENT_LATER)
		return -1;
	flow = fragments_find(&p->fragment_key);
	if (!flow || bpf_ktime_get_ns() - flow->seen_ns > FRAGMENT_NS)
		return -1;
	p->key = flow->key;
	p->from_b = flow->from_b;
	return flows_find(p) ? 0 : -1;
}

/* Returns how many packets a super-packet (GSO, GRO) becomes on the wire. */
static __always_inline __u32 skb_segments(struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = skb->gso_size;

	if (!size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	return p->payload_len > size ? (p->payload_len + size - 1) / size : 1;
}

#endif /* ETCPIPE_TRACK_H */
