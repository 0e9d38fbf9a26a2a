/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps of features and trees, and the only functions that touch them; as maps.h. */
#ifndef ETCPIPE_FEATURES_MAPS_H
#define ETCPIPE_FEATURES_MAPS_H

#include "maps.h"
#include "tree_plan.h"

#ifdef ETCPIPE_BCC
typedef struct { __u64 words[FEATURE_WORDS_AN_ENTRY]; } feature_room;
BPF_F_TABLE("array", u32, feature_room, features, FEATURE_SLOTS, BPF_F_MMAPABLE);
BPF_ARRAY(features_begun, u64, 1);
BPF_ARRAY(trees, struct tree, 1);
BPF_PERCPU_ARRAY(tree_works, struct tree_work, 1);
BPF_RINGBUF_OUTPUT(tree_records, 1);
#else
/* Rows of features, see gather.h; the loader sets how many and how large. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct feature_entry));
} features SEC(".maps");

MAP(BPF_MAP_TYPE_ARRAY, features_begun, __u32, __u64, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, trees, __u32, struct tree, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, tree_works, __u32, struct tree_work, 1, 0);

/* Rows of flows that trees are sure of, where packets are copied too; its size as packet_records. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} tree_records SEC(".maps");
#endif

static __always_inline struct feature_entry *features_at(__u32 row)
{
#ifdef ETCPIPE_BCC
	return (struct feature_entry *)features.lookup(&row);
#else
	return bpf_map_lookup_elem(&features, &row);
#endif
}

static __always_inline const struct tree *tree_find(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	return trees.lookup(&zero);
#else
	return bpf_map_lookup_elem(&trees, &zero);
#endif
}

static __always_inline struct tree_work *tree_work(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	return tree_works.lookup(&zero);
#else
	return bpf_map_lookup_elem(&tree_works, &zero);
#endif
}

/* Write a row, which has one size. Returns 0, or an error if the ring is full. */
static __always_inline long row_output(void *row, __u64 size)
{
#ifdef ETCPIPE_BCC
	return packet_records.ringbuf_output(row, size, BPF_RB_NO_WAKEUP);
#else
	if (SETTING(capture) != CAPTURE_FEATURES)
		return bpf_ringbuf_output(&tree_records, row, size, BPF_RB_NO_WAKEUP);
	return bpf_ringbuf_output(&packet_records, row, size, BPF_RB_NO_WAKEUP);
#endif
}

/*
 * How many rows were begun before this one. Before atomics could fetch, two processors at once
 * may get the same: then the second flow takes the place of the first.
 */
static __always_inline __u64 features_count(void)
{
	__u32 zero = 0;
#ifdef ETCPIPE_BCC
	__u64 *begun = features_begun.lookup(&zero);
#else
	__u64 *begun = bpf_map_lookup_elem(&features_begun, &zero);
#endif
	__u64 before;

	if (!begun)
		return 0;
#ifdef ETCPIPE_FETCH_ADD
	before = __sync_fetch_and_add(begun, 1);
#else
	before = *begun;
	ADD(*begun, 1);
#endif
	return before;
}

#endif /* ETCPIPE_FEATURES_MAPS_H */
