/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow tracker's rules, one for the kernel and for captures in user space:
 * when a flow begins anew, how a packet changes it, and which rank it gets.
 */
#ifndef ETCPIPE_FLOWS_H
#define ETCPIPE_FLOWS_H

#include "parsing.h"

#define RANK_NONE 0xffffffffu	/* the packet does not count towards the first N */

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
	if (rule == COUNT_ALL || p->payload_len)
		return 1;
	/* what remains has no payload: SYN and RST count as "non-ACK", bare ACK and FIN do not */
	return rule == COUNT_NON_ACK && p->tcp_flags & (TCP_SYN | TCP_RST);
}

/* A tuple in use begins a new flow after a long silence, or by a SYN after its end. */
static __always_inline int flow_restarts(const struct flow_state *flow, const struct packet *p,
					 __u64 now, __u64 idle_ns)
{
	if ((long long)(now - flow->last_ns) > (long long)idle_ns)
		return 1;
	return flow->status == FLOW_CLOSED && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The initiator sent the first packet, or was answered by it if that is a SYN+ACK. */
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

static __always_inline __u32 flow_next_rank(struct flow_state *flow, __u32 segments)
{
#if defined(__BPF__) && defined(ETCPIPE_FETCH_ADD)
	return __sync_fetch_and_add(&flow->counted, segments);
#else
	/* BPF before v3 cannot fetch: two CPUs at once may give one rank twice */
	__u32 rank = flow->counted;

	ADD(flow->counted, segments);
	return rank;
#endif
}

/*
 * Account a packet to its flow. Returns its rank among those that count, or RANK_NONE.
 * @segments is 1, or how many packets a super-packet is on the wire.
 */
static __always_inline __u32 flow_update(struct flow_state *flow, const struct packet *p,
					 __u32 wire_len, __u32 segments, __u64 now, __u32 rule)
{
	__u8 direction = flow_direction(flow, p);
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

#endif /* ETCPIPE_FLOWS_H */
