/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow tracker's rules, shared by the kernel and by captures in user space: when a new
 * flow begins, how a packet changes its flow, and which rank the packet gets.
 */
#ifndef ETCPIPE_FLOWS_H
#define ETCPIPE_FLOWS_H

#include "parsing.h"

#define RANK_NONE 0xffffffffu	/* the packet does not count towards the first N */
#define COUNTED_MAX 0xffff0000u	/* flow_state.counted stops here, before it can wrap */

/* Programs on several CPUs share a flow; captures are read by one thread. */
#ifdef __BPF__
#define ADD(target, amount) __sync_fetch_and_add(&(target), amount)
#else
#define ADD(target, amount) ((target) += (amount))
#endif

static __always_inline int packet_counts(const struct packet *p, __u32 rule)
{
	if (p->key.protocol != IPPROTO_TCP && p->key.protocol != IPPROTO_UDP)
		return 0;
	if (p->fragment == FRAGMENT_LATER)
		return 0;	/* its flow is known, its position in the flow is not */
	if (rule == COUNT_ALL || p->payload_len)
		return 1;
	/* what remains has no payload: SYN and RST count as "non-ACK", bare ACK and FIN do not */
	return rule == COUNT_NON_ACK && p->tcp_flags & (TCP_SYN | TCP_RST);
}

/* How long a flow may be silent before it has ended; depends on its state. */
struct flow_timeouts {
	__u64 establish_ns;	/* a SYN alone: nobody answered, as in scans and floods */
	__u64 idle_ns;
	__u64 tombstone_ns;	/* late packets of a closed flow still belong to it */
};

/*
 * Only a SYN was seen. Traffic in one direction alone is not enough to call a flow half open:
 * with asymmetric routing the tap may see only one side, whose packets acknowledge the other.
 */
static __always_inline int flow_is_half_open(const struct flow_state *flow)
{
	return ((flow->tcp_flags[0] | flow->tcp_flags[1]) & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u64 flow_timeout_ns(const struct flow_state *flow,
					     const struct flow_timeouts *timeouts)
{
	if (flow->status == FLOW_CLOSED)
		return timeouts->tombstone_ns;
	return flow_is_half_open(flow) ? timeouts->establish_ns : timeouts->idle_ns;
}

/* The difference is signed: packets of several queues may be slightly out of order. */
static __always_inline int flow_is_silent(const struct flow_state *flow, __u64 now,
					  const struct flow_timeouts *timeouts)
{
	return (long long)(now - flow->last_ns) > (long long)flow_timeout_ns(flow, timeouts);
}

/* A five-tuple begins a new flow after its timeout, or with a SYN after the flow closed. */
static __always_inline int flow_restarts(const struct flow_state *flow, const struct packet *p,
					 __u64 now, const struct flow_timeouts *timeouts)
{
	if (flow_is_silent(flow, now, timeouts))
		return 1;
	return flow->status == FLOW_CLOSED && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * Hashes the canonical key, so that both directions, all CPUs and the tracker for captures
 * choose the same flows. Another seed chooses another sample.
 */
static __always_inline int flow_is_sampled(const struct flow_key *key, __u32 every, __u32 seed)
{
	const __u32 *words = (const __u32 *)key;
	__u64 hash = seed;
	unsigned int i;

	if (every <= 1)
		return 1;
UNROLL
	for (i = 0; i < sizeof(*key) / sizeof(*words); i++) {
		hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ull;	/* 2^64 / golden ratio */
		hash ^= hash >> 32;
	}
	return (__u32)hash % every == 0;
}

/* The initiator sent the first packet, unless that is a SYN+ACK, which answers it. */
static __always_inline void flow_begin(struct flow_state *flow, const struct packet *p,
				       __u64 flow_id, __u64 now)
{
	__u8 answer = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);

	__builtin_memset(flow, 0, sizeof(*flow));
	flow->flow_id = flow_id;
	flow->first_ns = now;
	flow->last_ns = now;
	flow->initiator = p->from_b ^ answer;
}

static __always_inline __u8 flow_direction(const struct flow_state *flow, const struct packet *p)
{
	return (p->from_b ^ flow->initiator) & 1;
}

/* Ranks are handed out one by one up to the largest N; later packets are only counted. */
static __always_inline __u32 flow_next_rank(struct flow_state *flow, __u32 segments)
{
	__u32 rank = flow->counted;

	if (rank >= FIRST_N_MAX) {
		/* no atomic (8 ns); a counter that wrapped would give out rank 0 again */
		if (rank < COUNTED_MAX)
			flow->counted = rank + segments;
		return RANK_NONE;
	}
#if defined(__BPF__) && defined(ETCPIPE_FETCH_ADD)
	return __sync_fetch_and_add(&flow->counted, segments);
#else
	/* BPF before v3 has no fetching atomics: two CPUs may give out the same rank */
	ADD(flow->counted, segments);
	return rank;
#endif
}

/*
 * Account a packet to its flow. Returns its rank among the packets that count, or RANK_NONE.
 * @segments is 1, or the number of packets that a super-packet becomes on the wire.
 */
static __always_inline __u32 flow_account(struct flow_state *flow, const struct packet *p,
					  __u8 direction, __u32 wire_len, __u32 segments,
					  __u64 now, __u32 rule)
{
	__u8 other;

	ADD(flow->packets[direction], segments);
	ADD(flow->bytes[direction], wire_len);
	flow->last_ns = now;
	if (p->key.protocol == IPPROTO_TCP) {
		flow->tcp_flags[direction] |= p->tcp_flags;
		other = flow->tcp_flags[direction ^ 1];
		if (p->tcp_flags & TCP_RST || (p->tcp_flags & TCP_FIN && other & TCP_FIN))
			flow->status = FLOW_CLOSED;
	}
	return packet_counts(p, rule) ? flow_next_rank(flow, segments) : RANK_NONE;
}

static __always_inline __u32 flow_update(struct flow_state *flow, const struct packet *p,
					 __u32 wire_len, __u32 segments, __u64 now, __u32 rule)
{
	return flow_account(flow, p, flow_direction(flow, p), wire_len, segments, now, rule);
}

#endif /* ETCPIPE_FLOWS_H */
