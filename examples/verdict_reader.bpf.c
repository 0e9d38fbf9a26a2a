// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A TC program of your own that reads etcpipe's verdicts: bytes by class, as they pass.
 *
 *	clang -O2 -g -target bpf -I bpf -c examples/verdict_reader.bpf.c -o reader.o
 *	pins=/sys/fs/bpf/etcpipe/$(stat -Lc %i /proc/self/ns/net)/eth0
 *	bpftool prog load reader.o /sys/fs/bpf/reader \
 *		map name flows pinned $pins/map_flows \
 *		map name flow_tags pinned $pins/map_flow_tags \
 *		map name flow_plan pinned $pins/map_flow_plan \
 *		map name verdicts pinned $pins/map_verdicts
 *	tc qdisc add dev eth0 clsact
 *	tc filter add dev eth0 egress bpf da object-pinned /sys/fs/bpf/reader
 *	bpftool map dump name class_bytes
 *
 * The tap stands in front, so that a packet's flow is in the table by the time it comes here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "parsing.h"
#include "table.h"
#include "verdict.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SLOTS 262144	/* of the map verdicts: bpftool map show pinned $pins/map_verdicts */

/* Given at load: the tap's maps take the place of these four, sizes and all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_set);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_tags);
} flow_tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_plan);
} flow_plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

/* Entry 0 is for flows without a verdict, and those that the model does not know. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICT_CLASS_MAX + 1);
	__type(key, __u32);
	__type(value, __u64);
} class_bytes SEC(".maps");

static __always_inline struct flow_state *flow_of(const struct flow_key *key)
{
	__u32 zero = 0, index;
	struct flow_plan *plan = bpf_map_lookup_elem(&flow_plan, &zero);
	struct flow_tags *tags;
	struct flow_set *set;
	__u64 hash;

	if (!plan)
		return NULL;
	hash = flow_hash(plan, key);
	index = flow_set_of(plan, hash);
	tags = bpf_map_lookup_elem(&flow_tags, &index);
	set = bpf_map_lookup_elem(&flows, &index);
	if (!set || !tags)
		return NULL;
	return set_flow(set, set_find(set, tags, key, hash));
}

static __always_inline int class_of(const struct flow_key *key)
{
	struct flow_state *flow = flow_of(key);
	__u64 *word;
	__u32 slot;

	if (!flow)
		return -1;
	slot = verdict_slot(flow->flow_id, SLOTS);
	word = bpf_map_lookup_elem(&verdicts, &slot);
	return word ? verdict_class(verdict_of(*word, flow->flow_id)) : -1;
}

SEC("tc")
int count_classes(struct __sk_buff *skb)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct packet p = {};
	__u32 entry;
	__u64 *bytes;

	if (parse_frame(&c, skb->len, VLAN_NONE, 0, &p))
		return TC_ACT_UNSPEC;
	entry = class_of(&p.key) + 1;
	bytes = bpf_map_lookup_elem(&class_bytes, &entry);
	if (bytes)
		*bytes += skb->len;
	return TC_ACT_UNSPEC;
}
