/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The view bits: gpu/bits.py says what it is, gpu/bits_cpu.py is the definition. bits.c is
 * compiled for the CPU and, by gpu/views.cu, for a GPU.
 */
#ifndef ETCPIPE_BITS_H
#define ETCPIPE_BITS_H

#include "packet_bytes.h"

#define BITS_PACKETS 10
#define BITS_BYTES 192		/* of a packet, all parts */
#define BITS_ROW (BITS_PACKETS * BITS_BYTES * 8)

/* Write a flow's row into @rows, [flows][BITS_ROW], eight bytes aligned. */
void bits_of_flow(const struct kept_flows *flows, uint64_t flow, int8_t *rows);

#endif /* ETCPIPE_BITS_H */
