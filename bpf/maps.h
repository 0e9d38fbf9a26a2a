/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The tap's maps and the only functions that touch them. bcc declares maps and calls
 * them in its own way, and its rewriter does not look into macros: hence functions.
 */
#ifndef ETCPIPE_MAPS_H
#define ETCPIPE_MAPS_H

#include "flows.h"
#include "fragments.h"
#include "pending.h"
#include "settings.h"
#include "table.h"

/* What became of the canary's metadata between XDP and TC. */
enum canary_count {
	CANARY_WRITTEN,
	CANARY_REFUSED,		/* the driver has no room for metadata */
	CANARY_SURVIVED,
	CANARY_LOST,		/* a packet came to TC without it */
	N_CANARY_COUNTS,
};

#define FLOW_LOCKS 1024		/* a power of two: sets share them */
#define QUEUES_MAX 64		/* of the mirror: one a consumer */

#ifdef ETCPIPE_BCC
BPF_F_TABLE("array", u32, struct flow_set, flows, FLOW_SETS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct flow_tags, flow_tags, FLOW_SETS, BPF_F_MMAPABLE);
BPF_ARRAY(flow_locks, struct flow_lock, FLOW_LOCKS);
BPF_ARRAY(flow_plan, struct flow_plan, 1);
BPF_F_TABLE("array", u32, u64, verdicts, SLOTS, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(packet_counters, u64, N_PACKET_COUNTERS);
BPF_PERCPU_ARRAY(flow_ids, u64, 1);
BPF_ARRAY(canary_counts, u64, N_CANARY_COUNTS);
BPF_XSKMAP(xsks, QUEUES_MAX);
BPF_PERCPU_ARRAY(mirror_entries, struct mirror_entry, MIRROR_PENDING);
BPF_PERCPU_ARRAY(mirror_lists, struct mirror_list, 1);
BPF_PERCPU_ARRAY(mirror_scratches, struct mirror_scratch, 1);
BPF_PERCPU_ARRAY(packet_scratch, struct scratch, 1);
BPF_TABLE("lru_hash", struct fragment_key, struct fragment_flow, fragments, FRAGMENTS_MAX);
BPF_RINGBUF_OUTPUT(packet_records, RECORD_PAGES);
#else
#define MAP(kind, name, key_type, value_type, entries, flags)		\
	struct {							\
		__uint(type, kind);					\
		__uint(max_entries, entries);				\
		__uint(map_flags, flags);				\
		__type(key, key_type);					\
		__type(value, value_type);				\
	} name SEC(".maps")

/* The loader sets the sizes of flows, flow_tags and verdicts. */
MAP(BPF_MAP_TYPE_ARRAY, flows, __u32, struct flow_set, 1, BPF_F_MMAPABLE);
MAP(BPF_MAP_TYPE_ARRAY, flow_tags, __u32, struct flow_tags, 1, BPF_F_MMAPABLE);
MAP(BPF_MAP_TYPE_ARRAY, flow_locks, __u32, struct flow_lock, FLOW_LOCKS, 0);
MAP(BPF_MAP_TYPE_ARRAY, flow_plan, __u32, struct flow_plan, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, verdicts, __u32, __u64, 1, BPF_F_MMAPABLE);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, packet_counters, __u32, __u64, N_PACKET_COUNTERS, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, flow_ids, __u32, __u64, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, canary_counts, __u32, __u64, N_CANARY_COUNTS, 0);
MAP(BPF_MAP_TYPE_XSKMAP, xsks, __u32, __u32, QUEUES_MAX, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, mirror_entries, __u32, struct mirror_entry, MIRROR_PENDING, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, mirror_lists, __u32, struct mirror_list, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, mirror_scratches, __u32, struct mirror_scratch, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, packet_scratch, __u32, struct scratch, 1, 0);
MAP(BPF_MAP_TYPE_LRU_HASH, fragments, struct fragment_key, struct fragment_flow, FRAGMENTS_MAX, 0);

/* The loader sets its size: a page where it is not used. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} packet_records SEC(".maps");
#endif

static __always_inline void count(__u32 counter)
{
#ifdef ETCPIPE_BCC
	__u64 *value = packet_counters.lookup(&counter);
#else
	__u64 *value = bpf_map_lookup_elem(&packet_counters, &counter);
#endif

	if (value)
		(*value)++;	/* per CPU */
}

static __always_inline void count_n(__u32 counter, __u64 n)
{
#ifdef ETCPIPE_BCC
	__u64 *value = packet_counters.lookup(&counter);
#else
	__u64 *value = bpf_map_lookup_elem(&packet_counters, &counter);
#endif

	if (value)
		*value += n;
}

static __always_inline void canary_count(__u32 counter)
{
#ifdef ETCPIPE_BCC
	__u64 *value = canary_counts.lookup(&counter);
#else
	__u64 *value = bpf_map_lookup_elem(&canary_counts, &counter);
#endif

	if (value)
		ADD(*value, 1);
}

static __always_inline struct flow_set *flow_set_at(__u32 index)
{
#ifdef ETCPIPE_BCC
	return flows.lookup(&index);
#else
	return bpf_map_lookup_elem(&flows, &index);
#endif
}

static __always_inline struct flow_tags *flow_tags_at(__u32 index)
{
#ifdef ETCPIPE_BCC
	return flow_tags.lookup(&index);
#else
	return bpf_map_lookup_elem(&flow_tags, &index);
#endif
}

static __always_inline struct flow_place flows_place(const struct flow_key *key)
{
	struct flow_place at = {};
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	struct flow_plan *plan = flow_plan.lookup(&zero);
#else
	struct flow_plan *plan = bpf_map_lookup_elem(&flow_plan, &zero);
#endif

	if (!plan)
		return at;
	at.hash = flow_hash(plan, key);
	at.index = flow_set_of(plan, at.hash);
	at.tags = flow_tags_at(at.index);
	at.set = flow_set_at(at.index);
	return at;
}

static __always_inline struct flow_lock *flows_lock(const struct flow_place *at)
{
	__u32 index = at->index & (FLOW_LOCKS - 1);
#ifdef ETCPIPE_BCC
	return flow_locks.lookup(&index);
#else
	return bpf_map_lookup_elem(&flow_locks, &index);
#endif
}

/* Memory for a packet that functions which are verified alone share: see parsed.h. */
static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	return packet_scratch.lookup(&zero);
#else
	return bpf_map_lookup_elem(&packet_scratch, &zero);
#endif
}

static __always_inline struct fragment_flow *fragments_find(struct fragment_key *key)
{
#ifdef ETCPIPE_BCC
	return fragments.lookup(key);
#else
	return bpf_map_lookup_elem(&fragments, key);
#endif
}

static __always_inline void fragments_put(struct fragment_key *key, struct fragment_flow *flow)
{
#ifdef ETCPIPE_BCC
	fragments.update(key, flow);
#else
	bpf_map_update_elem(&fragments, key, flow, BPF_ANY);
#endif
}

/* Unique on this machine without atomics, and never 0: counter * CPUs + CPU. */
static __always_inline __u64 flow_id_next(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	__u64 *counter = flow_ids.lookup(&zero);
#else
	__u64 *counter = bpf_map_lookup_elem(&flow_ids, &zero);
#endif

	if (!counter)
		return 0;
	return ++*counter * SETTING(n_cpus) + bpf_get_smp_processor_id();
}

/* Hand a frame to the socket bound to this queue; XDP_DROP where there is none. */
static __always_inline int xsks_redirect(struct xdp_md *ctx)
{
#ifdef ETCPIPE_BCC
	return xsks.redirect_map(ctx->rx_queue_index, XDP_DROP);
#else
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
#endif
}

static __always_inline struct mirror_list *mirror_list(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	return mirror_lists.lookup(&zero);
#else
	return bpf_map_lookup_elem(&mirror_lists, &zero);
#endif
}

static __always_inline struct mirror_entry *mirror_pending_at(__u32 position)
{
	__u32 index = position % MIRROR_PENDING;
#ifdef ETCPIPE_BCC
	return mirror_entries.lookup(&index);
#else
	return bpf_map_lookup_elem(&mirror_entries, &index);
#endif
}

static __always_inline struct mirror_scratch *mirror_scratch(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	return mirror_scratches.lookup(&zero);
#else
	return bpf_map_lookup_elem(&mirror_scratches, &zero);
#endif
}

/* Room for a record, NULL if the ring is full. @size is a constant. */
static __always_inline struct packet_record *record_reserve(__u64 size)
{
#ifdef ETCPIPE_BCC
	return packet_records.ringbuf_reserve(size);
#else
	return bpf_ringbuf_reserve(&packet_records, size, 0);
#endif
}

/* The consumer looks by itself: waking it for each record would cost more than all else. */
static __always_inline void record_submit(struct packet_record *record)
{
#ifdef ETCPIPE_BCC
	packet_records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
#else
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
#endif
}

#endif /* ETCPIPE_MAPS_H */
