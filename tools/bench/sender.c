// SPDX-License-Identifier: Apache-2.0
/*
 * Sends UDP packets of many flows as fast as one processor can: whole frames through a packet
 * socket past the queueing discipline, 64 a system call. Compiled and run by path_cost.py:
 *
 *	sender DEVICE DESTINATION_MAC SOURCE DESTINATION FRAME_BYTES FLOWS PACKETS
 *
 * Flows differ in their source port and take turns. Prints packets sent, nanoseconds taken
 * and packets that the kernel refused (a full queue; they are sent again).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define FRAME_MAX 1514
#define FIRST_PORT 1024
#define DISCARD_PORT 9		/* RFC 863 */
#define SEND_BUFFER (8 << 20)

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	unsigned char payload[FRAME_MAX];
} __attribute__((packed));

static struct frame frames[BATCH];

static void fail(const char *step)
{
	perror(step);
	exit(1);
}

static unsigned short checksum(const void *header)
{
	const unsigned char *bytes = header;
	unsigned int sum = 0;
	size_t i;

	for (i = 0; i < sizeof(struct iphdr); i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return htons(~(sum + (sum >> 16)));
}

static void make_frame(struct frame *f, char **argv, size_t size)
{
	unsigned char *mac = f->eth.h_dest;

	memset(f, 0, sizeof(*f));
	if (sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3,
		   mac + 4, mac + 5) != ETH_ALEN)
		fail("MAC address");
	f->eth.h_source[0] = 2;	/* locally administered */
	f->eth.h_proto = htons(ETH_P_IP);
	f->ip.version = 4;
	f->ip.ihl = sizeof(f->ip) / 4;
	f->ip.tot_len = htons(size - sizeof(f->eth));
	f->ip.ttl = 64;
	f->ip.protocol = IPPROTO_UDP;
	f->ip.saddr = inet_addr(argv[3]);
	f->ip.daddr = inet_addr(argv[4]);
	f->ip.check = checksum(&f->ip);
	f->udp.dest = htons(DISCARD_PORT);
	f->udp.len = htons(size - sizeof(f->eth) - sizeof(f->ip));
}

static int open_socket(const char *device)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = if_nametoindex(device),
	};
	int one = 1, buffer = SEND_BUFFER;
	int fd = socket(AF_PACKET, SOCK_RAW, 0);	/* protocol 0: nothing is received */

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail(device);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer)))
		fail("socket options");
	return fd;
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Send them all, flow after flow. Returns how many had to be sent again. */
static long send_all(int fd, struct mmsghdr *messages, unsigned int flows, long packets)
{
	long sent = 0, again = 0;
	int i, n, done;

	while (sent < packets) {
		n = packets - sent < BATCH ? packets - sent : BATCH;
		for (i = 0; i < n; i++)
			frames[i].udp.source = htons(FIRST_PORT + (sent + i) % flows);
		done = sendmmsg(fd, messages, n, 0);
		if (done < 0 && errno != ENOBUFS && errno != EAGAIN)
			fail("sendmmsg");
		done = done < 0 ? 0 : done;
		again += n - done;
		sent += done;
	}
	return again;
}

int main(int argc, char **argv)
{
	struct mmsghdr messages[BATCH] = {};
	struct iovec parts[BATCH];
	size_t size;
	long packets, again;
	long long start;
	int fd, i;

	if (argc != 8)
		return 2;
	size = strtoul(argv[5], NULL, 10);
	packets = atol(argv[7]);
	if (size < offsetof(struct frame, payload) || size > FRAME_MAX)
		return 2;
	fd = open_socket(argv[1]);
	for (i = 0; i < BATCH; i++) {
		make_frame(&frames[i], argv, size);
		parts[i] = (struct iovec){ &frames[i], size };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	start = now_ns();
	again = send_all(fd, messages, strtoul(argv[6], NULL, 10), packets);
	printf("%ld %lld %ld\n", packets, now_ns() - start, again);
	return 0;
}
