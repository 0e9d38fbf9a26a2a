/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The view tok: gpu/tokens.py says what it is, gpu/tokens_cpu.py is the definition. tokens.c is
 * compiled for the CPU and, by gpu/views.cu, for a GPU.
 */
#ifndef ETCPIPE_TOKENS_H
#define ETCPIPE_TOKENS_H

#include "packet_bytes.h"

#define TOK_PACKETS 10
#define TOK_BYTES 64
#define TOK_NUMBERS 8
#define TOK_GAP 66		/* of a packet's TOK_ROW numbers, the one that the caller writes */
#define TOK_ROW (TOK_BYTES + TOK_NUMBERS)

/*
 * Write a flow's row into @rows, [flows][TOK_PACKETS][TOK_ROW], and into @gaps_us [TOK_PACKETS] the
 * microseconds before each packet, zero where there are none. Their logarithm is the caller's:
 * NumPy's has bits of its own.
 */
void tokens_of_flow(const struct kept_flows *flows, uint64_t flow, float *rows, double *gaps_us);

#endif /* ETCPIPE_TOKENS_H */
