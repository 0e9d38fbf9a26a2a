/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The view tok: gpu/tokens.py says what it is, gpu/tokens_cpu.py is the definition. tokens.c is
 * compiled for the CPU and, by gpu/views.cu, for a GPU.
 */
#ifndef ETCPIPE_TOKENS_H
#define ETCPIPE_TOKENS_H

#include <stdint.h>

#include "etcpipe.h"

#define TOK_PACKETS 10
#define TOK_BYTES 64
#define TOK_NUMBERS 8
#define TOK_GAP 66		/* of a packet's TOK_ROW numbers, the one that the caller writes */
#define TOK_ROW (TOK_BYTES + TOK_NUMBERS)

/* Flows, and where their rows go; the caller keeps the arrays alive. */
struct token_flows {
	const struct flow_key *keys;
	const struct packet_fields *packets;	/* [flows][ranks] */
	const uint8_t *raw;			/* [flows][ranks][raw_len] */
	float *rows;				/* [flows][TOK_PACKETS][TOK_ROW] */
	uint32_t ranks;
	uint32_t raw_len;
	uint32_t depth;
};

/*
 * Write a flow's row, and into @gaps_us [TOK_PACKETS] the microseconds before each packet, zero
 * where there are none. Their logarithm is the caller's: NumPy's has bits of its own.
 */
void tokens_of_flow(const struct token_flows *flows, uint64_t flow, double *gaps_us);

#endif /* ETCPIPE_TOKENS_H */
