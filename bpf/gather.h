/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The third way to the consumer: no packet of a flow but its features (feature_words.h), gathered
 * in an entry of an array and told once, by a record in a ring, when N packets came. Rows that
 * end otherwise are found by the consumer, who sees the array in its memory.
 *
 * Beside one of the other ways, features are gathered for the trees alone (tree.h): a flow that
 * they are sure of is told, and its further packets are not copied. No other row is told, and
 * no packet counts as gathered: each is copied, settled or lost.
 */
#ifndef ETCPIPE_GATHER_H
#define ETCPIPE_GATHER_H

#include "feature_words.h"
#include "features_maps.h"
#include "segments.h"
#include "track.h"
#include "tree.h"

#ifdef ETCPIPE_BCC
#define FEATURES (&(const struct feature_plan)SETTING_features)
#else
#define FEATURES (&settings.features)
#endif

#define ROWS_ALONE (SETTING(capture) == CAPTURE_FEATURES)	/* nothing is copied */

/* What became of a packet that was offered to its flow's row. */
enum gathered {
	GATHER_LOST = -1,
	GATHER_DONE,
	GATHER_SURE,		/* and the flow has its verdict */
};

/* Beside copies the ways that count packets are theirs. */
static __always_inline void gather_count(__u32 counter)
{
	if (ROWS_ALONE)
		count(counter);
}

/* Give a flow the row that was begun longest ago, when its first packet that counts comes. */
static __always_inline void features_assign(struct flow_state *flow, const struct mark *mark)
{
	if (!mark->rank)
		flow->row = features_count() & (FEATURES->slots - 1);
}

/* Close a row and tell the consumer, who finds it in the array where the ring is full. */
static __always_inline void features_tell(struct feature_entry *entry, __u8 reason)
{
	features_close(entry, FEATURES, reason);
	entry->status = FEATURES_TOLD;
	if (!ROWS_ALONE && entry->judged != FEATURES_SURE)
		return;
	if (row_output(entry, FEATURES->bytes))
		entry->status = FEATURES_UNTOLD;
	else
		count(FLOWS_GATHERED);
}

/* Begin a row in an entry that may still hold an older flow's. */
static __always_inline void features_open(struct feature_entry *entry, const struct packet *p,
					  const struct feature_sample *s, __u64 flow_id,
					  __u32 row)
{
	if (entry->flow_id && entry->status != FEATURES_TOLD) {
		if (entry->status == FEATURES_OPEN)
			features_tell(entry, READY_EVICTED);
		if (entry->status == FEATURES_UNTOLD)
			count(FLOWS_NOT_GATHERED);
	}
	entry->flow_id = 0;	/* tells concurrent readers that the entry is changing */
	features_begin(entry, FEATURES, flow_id, s->now);
	entry->key = p->key;
	entry->vlan = p->vlan;
	entry->ifindex = SETTING(device_ifindex);
	entry->row = row;
	entry->initiator = (p->from_b ^ s->side) & 1;
}

/*
 * Judge the flow of a row by trees. A function of its own: a loop of many steps. The verifier
 * of Linux before 6.8 walks such functions whether they are called or not, hence the first line.
 */
VERIFIED_ALONE int features_judge(__u32 row)
{
	struct feature_entry *entry = features_at(row);
	const struct tree *tree = tree_find();
	struct tree_work *work = tree_work();

	if (!SETTING(tree_depth))
		return 0;
	if (!entry || !tree || !work)
		return 0;
	return tree_judge(entry, FEATURES, tree, work);
}

/* Beside copies nobody looks for a row that the ring had no room for: the copies go on. */
static __always_inline int features_tell_sure(struct feature_entry *entry)
{
	entry->judged = FEATURES_SURE;
	features_tell(entry, READY_DEPTH);
	if (ROWS_ALONE || entry->status == FEATURES_TOLD)
		return 0;
	entry->status = FEATURES_TOLD;
	return -1;
}

/* A sure flow's verdict stands in the map before its next packet. */
static __always_inline void features_decide(struct feature_entry *entry, __u32 row)
{
	const struct tree *tree = tree_find();
	__u64 class;

	if (!features_judge(row) || !tree || features_tell_sure(entry)) {
		entry->judged = FEATURES_UNSURE;
		count(FLOWS_TREE_UNSURE);
		return;
	}
	count(FLOWS_TREE_SURE);
	class = entry->class & (TREE_CLASSES_MAX - 1);
	OPAQUE(class);
	verdict_store(verdict_slot(entry->flow_id, SETTING(slots)),
		      entry->flow_id << VERDICT_FLOW_SHIFT | VERDICT_FINAL | tree->verdict[class]);
}

/* Take a packet into its flow's row. Returns enum gathered; what is lost is counted. */
static __always_inline int gather(const struct packet *p, const struct feature_sample *s,
				  __u64 flow_id, __u32 row)
{
	struct feature_entry *entry = features_at(row);

	if (!entry)
		return GATHER_LOST;
	if (entry->flow_id != flow_id) {
		if (s->rank) {
			gather_count(PACKETS_NOT_GATHERED);
			return GATHER_LOST;
		}
		features_open(entry, p, s, flow_id, row);
	}
	if (entry->status != FEATURES_OPEN) {
		gather_count(PACKETS_GATHERED_LATE);
		return GATHER_DONE;
	}
	if (s->rank && features_are_idle(entry, s->now, FEATURES->wait_ns)) {
		features_tell(entry, READY_IDLE);
		gather_count(PACKETS_GATHERED_LATE);
		return GATHER_DONE;
	}
	features_add(entry, FEATURES, s);
	gather_count(PACKETS_GATHERED);
	if (SETTING(tree_depth) && s->rank + 1 == SETTING(tree_depth))
		features_decide(entry, row);
	if (s->rank + 1 == FEATURES->depth && entry->status == FEATURES_OPEN)
		features_tell(entry, READY_DEPTH);
	return entry->judged == FEATURES_SURE ? GATHER_SURE : GATHER_DONE;
}

static __always_inline struct feature_sample sample_of(const struct packet *p,
						       const struct mark *mark)
{
	struct feature_sample s = {
		.now = mark->timestamp_ns,
		.ip_len = p->ip_len,
		.payload_len = p->payload_len,
		.rank = mark->rank,
		.window = p->tcp_window,
		.ttl = p->ttl,
		.flags = p->tcp_flags,
		.side = mark->direction,
		.is_tcp = p->key.protocol == IPPROTO_TCP,
	};

	return s;
}

/* Take a packet that is no super-packet. Returns how many are lost. */
static __always_inline __u32 gather_one(const struct packet *p, const struct mark *mark,
					struct flow_state *flow)
{
	const struct feature_sample s = sample_of(p, mark);

	features_assign(flow, mark);
	return gather(p, &s, mark->flow_id, flow->row) == GATHER_LOST;
}

/*
 * Take one packet of the super-packet that was parsed last; as capture_segment(), a function
 * of its own. FIN and PSH are on the last one only, CWR on the first. Returns enum gathered.
 */
VERIFIED_ALONE int gather_segment(struct __sk_buff *skb, __u64 flow_id, __u64 timestamp_ns,
				  __u64 row_rank_and_direction, __u32 index)
{
	const struct mark mark = {
		.timestamp_ns = timestamp_ns,
		.rank = row_rank_and_direction >> 8,
		.direction = row_rank_and_direction,
	};
	struct packet *p = parsed();
	struct feature_sample s;
	struct segment_cut cut;

	if ((!ROWS_ALONE && !SETTING(tree_depth)) || !p)
		return GATHER_LOST;
	cut = segment_cut(p, skb->gso_size, index);
	s = sample_of(p, &mark);
	s.rank += index;
	s.ip_len = (__u16)(cut.headers - cut.network) + cut.payload_len;
	s.payload_len = cut.payload_len;
	if (!cut.is_last)
		s.flags &= ~(TCP_FIN | TCP_PSH);
	if (index)
		s.flags &= ~TCP_CWR;
	return gather(p, &s, flow_id, row_rank_and_direction >> 32);
}

static __always_inline int gather_next(struct __sk_buff *skb, const struct mark *mark,
				       const struct flow_state *flow, __u32 index)
{
	return gather_segment(skb, mark->flow_id, mark->timestamp_ns,
			      (__u64)flow->row << 32 | mark->rank << 8 | mark->direction, index);
}

/* A frame of one packet, or of @segments that cannot be told apart: one of them counts. */
static __always_inline __u32 gather_undivided(const struct packet *p, const struct mark *mark,
					      __u32 segments, struct flow_state *flow)
{
	__u32 left = SETTING(first_n) - mark->rank, others = 0;

	if (segments > 1) {
		others = (segments < left ? segments : left) - 1;
		count_n(PACKETS_NOT_GATHERED, others);
	}
	return others + gather_one(p, mark, flow);
}

/* Take a packet, or a super-packet's that are among the first N. Returns how many are lost. */
static __always_inline __u32 gather_skb(struct __sk_buff *skb, const struct packet *p,
					const struct mark *mark, __u32 segments,
					struct flow_state *flow)
{
	__u32 n = segments_in(p, skb->gso_size, skb->gso_segs), lost = 0, i;

	if (n == 1)
		return gather_undivided(p, mark, segments, flow);
	features_assign(flow, mark);
NO_UNROLL
	for (i = 0; i < FIRST_N_MAX; i++) {
		if (i >= n || mark->rank + i >= SETTING(first_n))
			break;
		/* its sign: Linux 6.1 would walk each way through a branch here */
		lost += (__u32)gather_next(skb, mark, flow, i) >> 31;
	}
	return lost;
}

/* Beside copies: do trees judge the flow by a packet of this rank or a later one? */
static __always_inline int gathers_rank(__u32 rank)
{
	return !ROWS_ALONE && rank < SETTING(tree_depth);
}

/* Count the segments of a super-packet that are not copied, after the first @index of them. */
static __always_inline void gather_settle(const struct mark *mark, __u32 segments, __u32 index)
{
	__u32 left = SETTING(first_n) - mark->rank;

	count_n(PACKETS_SETTLED, (segments < left ? segments : left) - index);
}

/*
 * Beside copies, before one is made: take a packet, or @segments that cannot be told apart, for
 * the trees. Returns whether they are sure of the flow now; then none of them is copied.
 */
static __always_inline int gather_settles(const struct packet *p, const struct mark *mark,
					  __u32 segments, struct flow_state *flow)
{
	struct feature_sample s;

	if (!gathers_rank(mark->rank))
		return 0;
	s = sample_of(p, mark);
	features_assign(flow, mark);
	if (gather(p, &s, mark->flow_id, flow->row) != GATHER_SURE)
		return 0;
	gather_settle(mark, segments, 0);
	return 1;
}

/* The same of one packet of a super-packet of @segments. */
static __always_inline int gather_settles_segment(struct __sk_buff *skb, const struct mark *mark,
						  __u32 segments, struct flow_state *flow,
						  __u32 index)
{
	if (!gathers_rank(mark->rank + index))
		return 0;
	if (!index)
		features_assign(flow, mark);
	if (gather_next(skb, mark, flow, index) != GATHER_SURE)
		return 0;
	gather_settle(mark, segments, index);
	return 1;
}

#endif /* ETCPIPE_GATHER_H */
