// SPDX-License-Identifier: Apache-2.0
/*
 * What the parser's headers need where there is no Linux and no C: the kernel's integer types,
 * a pointer that stands for C's void *, numbers in network order that may lie at any address
 * (a GPU traps on an unaligned load), and the protocols' headers as Linux names their
 * fields. gpu/cuda_source.py puts it in their place.
 */
#ifndef ETCPIPE_WIRE_CUH
#define ETCPIPE_WIRE_CUH

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
typedef unsigned long long uintptr_t;
#define INFINITY __int_as_float(0x7f800000)
#else
#include <stdint.h>
#endif
#ifndef __CUDACC__
#include "shim.h"
#endif

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

#ifndef __BYTE_ORDER__
#define __ORDER_LITTLE_ENDIAN__ 1234
#define __BYTE_ORDER__ __ORDER_LITTLE_ENDIAN__
#endif
#undef __always_inline
#define __always_inline inline
#define OPAQUE(variable)	/* is for the kernel's verifier */
#ifndef NULL
#define NULL 0
#endif

#ifdef __CUDACC__
#define __builtin_bswap16(x) ((__u16)__byte_perm(x, 0, 0x4401))
#define __builtin_bswap32(x) __byte_perm(x, 0, 0x0123)
#define __builtin_memset memset
#define __builtin_memcpy memcpy
#endif

/* Two bytes of a frame, as the number that a little-endian machine reads there. */
struct __be16 {
	__u8 bytes[2];

	__be16() = default;
	__device__ __be16(unsigned int x) : bytes{ (__u8)x, (__u8)(x >> 8) } {}
	__device__ operator __u16() const { return bytes[0] | bytes[1] << 8; }
};

struct __be32 {
	__u8 bytes[4];

	__be32() = default;
	__device__ __be32(__u32 x)
		: bytes{ (__u8)x, (__u8)(x >> 8), (__u8)(x >> 16), (__u8)(x >> 24) }
	{
	}
	__device__ __be32(__be16 x) : __be32((__u32)(__u16)x) {}
	__device__ operator __u32() const
	{
		return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (__u32)bytes[3] << 24;
	}
};

/* void * of GNU C: becomes any pointer, and counts in bytes. */
struct byte_pointer {
	const __u8 *at;

	byte_pointer() = default;
	template <class T> __device__ byte_pointer(const T *p) : at((const __u8 *)p) {}
	template <class T> __device__ operator T *() const { return (T *)at; }
	__device__ byte_pointer operator+(__u64 n) const { return at + n; }
	__device__ byte_pointer operator-(int n) const { return at - n; }
	__device__ __u64 operator-(byte_pointer other) const { return at - other.at; }
	__device__ void operator+=(__u64 n) { at += n; }
	__device__ bool operator>(byte_pointer other) const { return at > other.at; }
	__device__ bool operator<(byte_pointer other) const { return at < other.at; }
};

/* As in bpf/packet.h, without an expression that is a statement: NVRTC knows none. */
#define PULL(cursor, header, size) pull(cursor, header, size)

template <class Cursor, class Header>
static inline __device__ int pull(Cursor *cursor, Header *&header, __u64 size)
{
	header = cursor->pos;
	if (cursor->pos + size > cursor->end)
		return -1;
	cursor->pos += size;
	return 0;
}

enum {
	ETH_P_IP = 0x0800,
	ETH_P_TEB = 0x6558,
	ETH_P_8021Q = 0x8100,
	ETH_P_IPV6 = 0x86dd,
	ETH_P_MPLS_UC = 0x8847,
	ETH_P_PPP_SES = 0x8864,
	ETH_P_8021AD = 0x88a8,
};

enum {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_IPIP = 4,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_IPV6 = 41,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_GRE = 47,
	IPPROTO_AH = 51,
	IPPROTO_DSTOPTS = 60,
	IPPROTO_SCTP = 132,
};

struct ethhdr {
	__u8 h_dest[6];
	__u8 h_source[6];
	__be16 h_proto;
};

struct iphdr {
	__u8 ihl : 4;
	__u8 version : 4;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6hdr {
	__u8 priority : 4;
	__u8 version : 4;
	__u8 flow_lbl[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__u8 saddr[16];
	__u8 daddr[16];
};

struct tcphdr {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack_seq;
	__u8 res1 : 4;
	__u8 doff : 4;
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urg_ptr;
};

struct udphdr {
	__be16 source;
	__be16 dest;
	__be16 len;
	__be16 check;
};

static_assert(sizeof(struct iphdr) == 20 && sizeof(struct ipv6hdr) == 40, "as on the wire");
static_assert(sizeof(struct tcphdr) == 20 && sizeof(struct udphdr) == 8, "as on the wire");

#endif /* ETCPIPE_WIRE_CUH */
