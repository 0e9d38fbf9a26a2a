// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The floors beside which packet_cost.py sets the tap's programs, and a walk over many
 * flows: it changes one of the packet's addresses and hands on to a target by a tail call, so
 * that the very programs that the loader attaches are measured, not a copy of them.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flows.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Which flow comes next, of each processor; the loader writes it before each measurement. */
struct walk {
	__u64 state;		/* counter, or of the generator; not 0 */
	__u32 first;		/* flow, */
	__u32 flows;		/* and how many from there, at least 1 */
	__u32 is_random;	/* else one after the other, again and again */
	__u32 address_at;	/* offset of the last four bytes of the address that is changed */
};

#define ADDRESS_AT_MAX 64

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_state);
} known SEC(".maps");

/* The same without the order of use: what that order costs a look-up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_state);
} hashed SEC(".maps");

/* As much as a flow of the tracker takes, the kernel's own 48 bytes of an element included. */
struct entry {
	struct flow_key key;
	struct flow_state flow;
	__u64 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct entry);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xdp_targets SEC(".maps"), tc_targets SEC(".maps");

/* Draw the next flow: neighbours in memory must not follow one another, hence at random. */
static __always_inline __u32 next_flow(struct walk *walk)
{
	if (!walk->is_random)
		return walk->first + walk->state++ % walk->flows;
	walk->state ^= walk->state << 13;	/* Marsaglia, Xorshift RNGs (2003) */
	walk->state ^= walk->state >> 7;
	walk->state ^= walk->state << 17;
	return walk->first + ((walk->state >> 32) * walk->flows >> 32);
}

static __always_inline void change_address(void *data, void *end)
{
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walks, &zero);
	__u32 *address;

	if (!walk || walk->address_at > ADDRESS_AT_MAX)
		return;
	address = data + walk->address_at;
	if ((void *)(address + 1) <= end)
		*address = next_flow(walk);
}

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int xdp_parse(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct packet p = {};

	if (parse_frame(&c, ctx->data_end - ctx->data, VLAN_NONE, 0, &p))
		return XDP_DROP;
	/* never so, but the compiler cannot know: all of the key has to be made */
	return p.key.a_addr[0] + p.key.b_addr[0] + p.key.a_port + p.key.b_port == 1 ? XDP_DROP :
										      XDP_PASS;
}

/* Parse and look up; a flow that is not there is put there. */
static __always_inline int find(struct xdp_md *ctx, void *map)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct flow_state empty = {};
	struct packet p = {};

	if (parse_frame(&c, ctx->data_end - ctx->data, VLAN_NONE, 0, &p))
		return XDP_DROP;
	if (!bpf_map_lookup_elem(map, &p.key))
		bpf_map_update_elem(map, &p.key, &empty, BPF_ANY);
	return XDP_PASS;
}

SEC("xdp")
int xdp_find(struct xdp_md *ctx)
{
	return find(ctx, &known);
}

SEC("xdp")
int xdp_find_hash(struct xdp_md *ctx)
{
	return find(ctx, &hashed);
}

/* The entry of an array that the packet's source says. */
static __always_inline struct entry *entry_of(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	__u32 *address = data + ETH_HLEN + __builtin_offsetof(struct iphdr, saddr);
	__u32 index;

	if ((void *)(address + 1) > (void *)(long)ctx->data_end)
		return NULL;
	index = *address * 0x9e3779b1;	/* 2^32 / golden ratio: neighbours come apart */
	index >>= 12;
	return bpf_map_lookup_elem(&entries, &index);
}

/* A cache miss, and nothing else. The processor goes on to the next packet meanwhile. */
SEC("xdp")
int xdp_touch(struct xdp_md *ctx)
{
	struct entry *entry = entry_of(ctx);

	if (entry)
		entry->flow.packets[0]++;
	return XDP_PASS;
}

/* A cache miss that the next packet waits for, as it does for what a table answers. */
SEC("xdp")
int xdp_await(struct xdp_md *ctx)
{
	struct entry *entry = entry_of(ctx);
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walks, &zero);

	if (entry && walk)
		walk->state += entry->pad[0];	/* which is 0 */
	return XDP_PASS;
}

SEC("xdp")
int xdp_walk(struct xdp_md *ctx)
{
	/* a test run repeats on one buffer: take back the metadata of the last time */
	bpf_xdp_adjust_meta(ctx, (int)(ctx->data - ctx->data_meta));
	change_address((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	bpf_tail_call(ctx, &xdp_targets, 0);
	return XDP_ABORTED;
}

SEC("tc")
int tc_pass(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tc_walk(struct __sk_buff *skb)
{
	change_address((void *)(long)skb->data, (void *)(long)skb->data_end);
	bpf_tail_call(skb, &tc_targets, 0);
	return TC_ACT_SHOT;
}
