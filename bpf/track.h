/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a packet to its flow in the kernel's table, and to a mark where it must be
 * mirrored. The rules are in flows.h; this is what the kernel adds to them.
 */
#ifndef ETCPIPE_TRACK_H
#define ETCPIPE_TRACK_H

#include "insert.h"
#include "verdict.h"

/* What tracking says of a packet that must be mirrored; XDP's metadata for TC. */
struct mark {
	__u64 flow_id;
	__u64 timestamp_ns;
	__u32 magic;
	__u16 rank;
	__u8 direction;
	__u8 action;		/* of the flow's verdict, 0: none */
};

/* Of this tap, not of another one on a device stacked upon this one. */
static __always_inline __u32 mark_magic(void)
{
	return 0xe7c00000 ^ SETTING(device_ifindex);
}

/* Linux 5.11, which the object without fetching atomics and bcc cannot count on. */
static __always_inline __u64 clock_coarse_ns(void)
{
#ifdef ETCPIPE_FETCH_ADD
	return bpf_ktime_get_coarse_ns();
#else
	return bpf_ktime_get_ns();
#endif
}

/*
 * Begin a flow, in the place of an older one of the same key that is over, if any. The older
 * one is counted as restarted unless user space has taken it out by now and counts it as ended.
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
	/* else another CPU was faster: the flow is there, with its id */
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

/* The flow's verdict, 0 while it has none. */
static __always_inline __u64 flow_verdict(const struct flow_state *flow)
{
	__u32 slot = verdict_slot(flow->flow_id, SETTING(slots));

	return verdict_of(verdict_load(slot), flow->flow_id);
}

/* May the flow's next packet reach whoever judges flows? Not past N, nor past a final verdict. */
static __always_inline int flow_is_watched(const struct flow_state *flow)
{
	if (flow->counted >= SETTING(first_n))
		return 0;
	return !flow->counted || !verdict_is_final(flow_verdict(flow));
}

/*
 * The time of a known flow's packet: exact while the flow is watched. After that it only
 * tells silence from traffic, and the clock that the timer interrupt keeps does: it lags by a
 * tick, 1 to 10 ms. The exact one costs almost as much as all else that is done for the packet
 * (40 of 100 ns). Never before an exact time that was taken earlier.
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
 * The action of the flow's verdict. It is kept in the flow, since its slot goes to a newer
 * flow that is judged, after as many flows as there are slots: some seconds in a flood.
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
	mark->flow_id = flow->flow_id;	/* of packets past N too: their verdict acts */
	mark->action = flow_action(flow);
	rank = flow_update(flow, p, wire_len, segments, now, SETTING(count_rule));
	if (rank >= SETTING(first_n))
		return NULL;
	wanted = SETTING(first_n) - rank;
	if (segments < wanted)
		wanted = segments;
	count_n(PACKETS_FIRST_N, wanted);
	/* whoever judges flows closed this one's row, and has no use for more of it */
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

/* Give a later fragment the key of its first one, whose flow must still be there. */
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

/* How many packets a super-packet (GSO, GRO) is on the wire. */
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
