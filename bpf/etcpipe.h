/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * THE records. BPF programs write them, the native extension and CUDA include
 * this file, etcpipe/layout.py reads it into NumPy dtypes. Only fixed-width
 * fields, explicit padding and plain enums, so that all of them agree.
 */
#ifndef ETCPIPE_H
#define ETCPIPE_H

#include <linux/types.h>

/* Raised whenever a record or the meaning of a map changes: pins of another ABI are not adopted. */
#define ETCPIPE_ABI 6

#define SAMPLE_MAX 1000000	/* one flow of so many at least is tracked */
#define FIRST_N_MAX 64		/* packets of a flow that may be asked for */
#define SNAP_LEN_DEFAULT 1600	/* bytes of a frame that reach the consumer */
#define BATCH_MAX 1024		/* packets in a batch */
#define VLAN_NONE 0xffff	/* the packet has no VLAN tag */
#define SET_FLOWS 32	/* places of a set in the flow table, see table.h */
#define FLOW_ID_BITS 47		/* a flow id fits 47 bits, so 17 remain beside it in a verdict */

/* What the parser is asked for beyond a packet's own five-tuple; bits. */
#define PARSE_DECAP 1		/* the flow inside a tunnel, not the tunnel */
#define PARSE_KEY_VLAN 2	/* VLAN ids are part of the key */
#define PARSE_KEY_TUNNEL 4	/* so is the tunnel's id: VNI, TEID, GRE key, MPLS label .. */

/* Where every packet went. Packets that pass unanalysed are counted under their reason. */
enum packet_counter {
	PACKETS_SEEN,		/* all packets that the hooks saw */
	PACKETS_NOT_IP,		/* neither IPv4 nor IPv6 */
	PACKETS_MALFORMED,	/* a header is cut short or contradicts itself */
	PACKETS_FRAGMENT,	/* a later fragment: it has no ports */
	PACKETS_TABLE_FULL,	/* no room for a new flow */
	PACKETS_TRACKED,	/* belongs to a flow of the table */
	PACKETS_FIRST_N,	/* counts towards the first N: reaches the consumer, or is lost or settled, below */
	PACKETS_CLONED,		/* the copy was accepted by the mirror device, or stands in the ring of records */
	PACKETS_CLONE_FAILED,	/* loss: the kernel could not copy, or the mirror device refused */
	PACKETS_PUSH_FAILED,	/* loss: too many copies on their way on this CPU */
	PACKETS_REDIRECTED,	/* the copy was handed to the consumer's socket */
	PACKETS_NO_CONSUMER,	/* loss: no socket on this queue */
	PACKETS_POP_FAILED,	/* loss: the kernel dropped the copy on its way, or could not cut it */
	PACKETS_FOREIGN,	/* not ours: somebody else's packet on the mirror device */
	FLOWS_CREATED,
	FLOWS_RESTARTED,	/* same tuple, new flow: a SYN after the end, or idle too long */
	PACKETS_UNSAMPLED,	/* passed: its flow is not of the sample */
	PACKETS_FILTERED,	/* passed: the filter does not want it */
	PACKETS_ACTED,		/* the flow's verdict has an action, which was done */
	PACKETS_POLICY_DROP,	/* dropped: the policy says so of the flow's verdict */
	PACKETS_NOT_FORWARDED,	/* forward mode: the other port could not be had or did not take it */
	PACKETS_RINGBUF_FULL,	/* loss: the consumer left no room in the ring of records */
	FLOWS_ENDED,		/* live: taken out of the table, with a record; the consumer counts it */
	PACKETS_GATHERED,	/* of the first N: in its flow's features, of which no copy was made */
	PACKETS_GATHERED_LATE,	/* not in them: its flow's row was closed before */
	PACKETS_NOT_GATHERED,	/* loss: a newer flow has the row's place, or its first packet is unknown */
	FLOWS_GATHERED,		/* rows that the kernel told by a record */
	FLOWS_NOT_GATHERED,	/* loss: the ring was full, and a newer flow took the row's place */
	FLOWS_TREE_SURE,	/* judged in the kernel: nothing more is gathered of them */
	FLOWS_TREE_UNSURE,	/* gathered on, for a model in user space */
	PACKETS_SETTLED,	/* of the first N: not copied, as their flow has its final verdict */
	N_PACKET_COUNTERS,
};

/* Which packets count towards the first N. */
enum count_rule {
	COUNT_PAYLOAD,		/* those with TCP or UDP payload (default) */
	COUNT_ALL,		/* every TCP or UDP packet */
	COUNT_NON_ACK,		/* all but bare ACK and FIN segments */
};

enum flow_status {
	FLOW_OPEN,
	FLOW_CLOSED,		/* RST, or FIN of both sides */
};

/*
 * A five-tuple in canonical order: end a is the smaller (address, port) pair,
 * so that both directions share one key. IPv4 is stored IPv4-mapped (RFC 4291).
 * Six words of 8 bytes, as the table hashes and compares it.
 */
struct flow_key {
	__u8 a_addr[16];
	__u8 b_addr[16];
	__be16 a_port;		/* 0 if the protocol has no ports */
	__be16 b_port;
	__u8 protocol;		/* IANA protocol number */
	__u8 ip_version;	/* 4 or 6 */
	__u16 zone;		/* outer VLAN id if it is part of the key, else 0 */
	__u16 inner_zone;	/* the second id of QinQ, under the same condition */
	__u8 pad[2];
	__u32 tunnel;		/* VNI, TEID, GRE key, MPLS label .. if part of the key, else 0 */
};

/* What the tracker knows of a flow. Direction 0 is from the initiator. One cache line. */
struct flow_state {
	__u64 flow_id;
	__u64 first_ns;		/* CLOCK_MONOTONIC live, the capture's clock offline */
	__u64 last_ns;
	__u64 bytes[2];		/* whole frames on the wire */
	__u32 packets[2];	/* on the wire: a super-packet counts its segments */
	__u32 counted;		/* packets that counted towards N = the next one's rank */
	__u16 lost;		/* of the first N, refused by the mirror */
	__u8 tcp_flags[2];	/* all flags seen */
	__u8 initiator;		/* 1: end b of the key opened the flow */
	__u8 status;		/* enum flow_status */
	__u16 verdict;		/* low half of its word in bpf/verdict.h, once seen with a policy */
	__u32 row;		/* of the table `features`, where the kernel gathers them */
};

/* A place in the flow table: of a flow, unless `taken` is its id. Two cache lines. */
struct table_entry {
	struct flow_key key;
	__u64 taken;		/* id of the last flow that was removed from here */
	__u64 zero;		/* always 0, which the verifier does not know: see table.h */
	struct flow_state state;
};

/* How a flow's place is computed, by the kernel's programs and by user space. */
struct flow_plan {
	__u64 multipliers[6];	/* random, odd */
	__u32 sets;
	__u32 pad;
};

/* Why a flow left the table. */
enum end_reason {
	END_IDLE,		/* nothing came for the idle timeout */
	END_CLOSED,		/* RST or FIN of both sides, then silence or a new SYN */
	END_SOURCE,		/* the capture ended first */
	END_ESTABLISH,		/* a SYN that nobody answered */
	END_ACTIVE,		/* not ended: an interim record of a long flow */
};

/* A flow that ended, with its final totals. */
struct flow_record {
	struct flow_key key;
	struct flow_state state;
	__u8 reason;		/* enum end_reason */
	__u8 pad[7];
};

/* Travels with each mirrored packet as AF_XDP metadata, right before the frame. */
struct packet_meta {
	__u64 flow_id;
	__u64 timestamp_ns;	/* CLOCK_MONOTONIC */
	__u32 wire_len;		/* bytes of the frame on the wire, VLAN tag included */
	__u32 ifindex;
	__u16 rank;		/* 0 .. N-1 within the flow */
	__u16 vlan;		/* outer TCI, or VLAN_NONE */
	__u16 segment_len;	/* payload bytes a segment of a super-packet, 0: one packet */
	__u8 direction;		/* 0: from the flow's initiator */
	__u8 pad;
};

/* What a record in the ring buffer begins with; the frame's captured bytes follow. */
struct packet_record {
	struct packet_meta meta;
	__u32 captured;
	__u8 pad[4];
};

/* What regrouping keeps of a packet; a row of zeros where the flow has none (present = 0). */
struct packet_fields {
	__u64 timestamp_ns;
	__u32 ip_len;		/* bytes from the IP header on, as the IP header says */
	__u32 payload_len;	/* bytes after the TCP or UDP header */
	__u16 tcp_window;	/* host order, unscaled, 0 for UDP */
	__u16 raw_len;		/* bytes of the raw view that are valid */
	__u8 tcp_flags;		/* 0 for UDP */
	__u8 ttl;		/* or hop limit */
	__u8 direction;		/* 0: from the flow's initiator */
	__u8 present;
};

/* Why a flow's model input was closed. */
enum ready_reason {
	READY_DEPTH,		/* all N packets are there */
	READY_IDLE,		/* no counted packet for the waiting time */
	READY_END,		/* the flow or the source ended */
	READY_EVICTED,		/* its place was needed by a newer flow */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct flow_key) == 48, "flow_key is 48 bytes");
_Static_assert(sizeof(struct flow_state) == 64, "flow_state is one cache line");
_Static_assert(sizeof(struct table_entry) == 128, "table_entry is two cache lines");
_Static_assert(sizeof(struct flow_record) == 120, "flow_record is 120 bytes");
_Static_assert(sizeof(struct packet_meta) == 32, "packet_meta is AF_XDP's portable maximum");
_Static_assert(sizeof(struct packet_record) == 40, "packet_record keeps the frame aligned");
_Static_assert(sizeof(struct packet_fields) == 24, "packet_fields is 24 bytes");
#endif

#endif /* ETCPIPE_H */
