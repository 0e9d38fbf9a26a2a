// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A queue's classifier of your own that goes by etcpipe's verdicts: the class is the one that
 * the policy's `classid` gave the packet. A verdict with classid = "1:20" queues in 1:20.
 *
 *	clang -O2 -g -target bpf -c examples/classid_classifier.bpf.c -o classid.o
 *	bpftool prog loadall classid.o /sys/fs/bpf/classid type classifier
 *	tc qdisc add dev eth0 root handle 1: htb default 10
 *	tc filter add dev eth0 parent 1: bpf da flowid 1: \
 *		object-pinned /sys/fs/bpf/classid/choose_class
 *
 * The tap leaves the minor number twice. skb->tc_index stays with the packet, into its queue.
 * skb->tc_classid is for programs behind the tap on the same tcx hook, as count_classids is;
 * a clsact filter starts with its own.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CLASSIDS 256		/* minor numbers that are counted */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CLASSIDS);
	__type(key, __u32);
	__type(value, __u64);
} classid_packets SEC(".maps");

/* In the queue: its own major number comes from the filter's flowid. */
SEC("tc")
int choose_class(struct __sk_buff *skb)
{
	if (!skb->tc_index)
		return TC_ACT_UNSPEC;	/* no verdict: the queue's default */
	skb->tc_classid = skb->tc_index;
	return TC_ACT_OK;
}

SEC("tc")
int count_classids(struct __sk_buff *skb)
{
	__u32 minor = skb->tc_classid & 0xffff;
	__u64 *packets = bpf_map_lookup_elem(&classid_packets, &minor);

	if (packets)
		(*packets)++;
	return TC_ACT_UNSPEC;
}
