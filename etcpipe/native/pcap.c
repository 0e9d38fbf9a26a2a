// SPDX-License-Identifier: Apache-2.0
/* Capture files through libpcap, read in chunks; etcpipe/capture.py is the only caller. */
#define _GNU_SOURCE		/* fopencookie */
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "columns.h"
#include "link.h"
#include "tracker.h"

#define PCAP_CAPSULE "etcpipe.pcap"
#define FILE_BUFFER (256 * 1024)
#define PIPE_BUFFER 4096	/* few packets: see must_wait */
#define FRAME_ALIGN 16
#define SIGNALS_EVERY_MS 50
#define WIRE_LEN_MAX (1 << 20)	/* Linux' largest super-packet is half of it (GSO_MAX_SIZE) */

struct reader {
	pcap_t *pcap;
	int fd;
	int link_type;
	int is_file;		/* a regular one: reading never waits for a writer */
	uint64_t bytes_read;	/* from the file, some of them still in the buffer */
	size_t taken;		/* bytes of the buffer that libpcap has */
	size_t filled;
	PyThreadState *thread;	/* while the GIL is released */
	char buffer[FILE_BUFFER];	/* what came through a pipe and stdio has not asked for */
	char stdio[FILE_BUFFER];	/* setvbuf takes a size only with memory of ours */
};

/* One call of pcap_read. */
struct chunk {
	const struct packet_columns *columns;
	uint32_t rows;
	uint32_t rows_max;
	uint8_t *arena;
	size_t arena_used;
	uint32_t snap_len;	/* the arena has room for rows_max frames of it */
	uint32_t first_n;
};

/* Let Python see to its signals; 0 if it does not mind. */
static int is_interrupted(struct reader *reader)
{
	int raised;

	PyEval_RestoreThread(reader->thread);
	raised = PyErr_CheckSignals();
	reader->thread = PyEval_SaveThread();
	return raised;
}

/*
 * A pipe may be silent for long. Waiting in short turns also sees a signal that came right
 * before the wait began, which a read alone would sleep through.
 */
static int wait_for_pipe(struct reader *reader)
{
	struct pollfd pipe = { .fd = reader->fd, .events = POLLIN };

	while (poll(&pipe, 1, SIGNALS_EVERY_MS) <= 0) {
		if (is_interrupted(reader)) {
			errno = EINTR;
			return -1;
		}
	}
	return 0;
}

static ssize_t fill_buffer(struct reader *reader)
{
	ssize_t n;

	if (wait_for_pipe(reader))
		return -1;
	do {
		n = read(reader->fd, reader->buffer, sizeof(reader->buffer));
	} while (n < 0 && errno == EINTR && !is_interrupted(reader));
	reader->taken = 0;
	reader->filled = n > 0 ? n : 0;
	reader->bytes_read += reader->filled;
	return n;
}

static ssize_t read_file(void *cookie, char *to, size_t size)
{
	struct reader *reader = cookie;
	ssize_t n;

	if (reader->is_file) {
		n = read(reader->fd, to, size);
		reader->bytes_read += n > 0 ? n : 0;
		return n;
	}
	if (reader->taken == reader->filled) {
		n = fill_buffer(reader);
		if (n <= 0)
			return n;
	}
	n = reader->filled - reader->taken;
	if ((size_t)n > size)
		n = size;
	memcpy(to, reader->buffer + reader->taken, n);
	reader->taken += n;
	return n;
}

/*
 * Returns whether reading the next packet may block on the writer of the pipe. Stdio may hold
 * some packets already; the caller then reads these one by one.
 */
static int must_wait(const struct reader *reader)
{
	struct pollfd pipe = { .fd = reader->fd, .events = POLLIN };

	return !reader->is_file && reader->taken == reader->filled && poll(&pipe, 1, 0) == 0;
}

static int close_file(void *cookie)
{
	return close(((struct reader *)cookie)->fd);
}

/* NULL with @error set (and the descriptor closed) if this is no capture. */
static pcap_t *open_pcap(struct reader *reader, char *error)
{
	const cookie_io_functions_t functions = { .read = read_file, .close = close_file };
	FILE *file = fopencookie(reader, "r", functions);
	pcap_t *pcap;

	if (!file) {
		close(reader->fd);
		snprintf(error, PCAP_ERRBUF_SIZE, "out of memory");
		return NULL;
	}
	setvbuf(file, reader->stdio, _IOFBF, reader->is_file ? FILE_BUFFER : PIPE_BUFFER);
	pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, error);
	if (!pcap)
		fclose(file);
	return pcap;
}

static void free_reader(struct reader *reader)
{
	if (reader->pcap)
		pcap_close(reader->pcap);
	free(reader);
}

static struct reader *reader_from(PyObject *capsule)
{
	return PyCapsule_GetPointer(capsule, PCAP_CAPSULE);
}

static void destroy(PyObject *capsule)
{
	free_reader(reader_from(capsule));
}

static PyObject *open_reader(PyObject *self, PyObject *args)
{
	char error[PCAP_ERRBUF_SIZE] = "";
	struct reader *reader;
	struct stat status;
	PyObject *capsule;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	reader = calloc(1, sizeof(*reader));
	if (!reader)
		return PyErr_NoMemory();
	reader->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (reader->fd < 0) {
		free_reader(reader);
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	reader->is_file = !fstat(reader->fd, &status) && S_ISREG(status.st_mode);
	reader->thread = PyEval_SaveThread();
	reader->pcap = open_pcap(reader, error);
	PyEval_RestoreThread(reader->thread);
	if (!reader->pcap) {
		free_reader(reader);
		return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%s", error);
	}
	reader->link_type = pcap_datalink(reader->pcap);
	capsule = PyCapsule_New(reader, PCAP_CAPSULE, destroy);
	if (!capsule)
		free_reader(reader);
	return capsule;
}

static PyObject *set_filter(PyObject *self, PyObject *args)
{
	struct bpf_program program;
	struct reader *reader;
	const char *expression;
	PyObject *capsule;
	int failed;

	(void)self;
	if (!PyArg_ParseTuple(args, "Os", &capsule, &expression))
		return NULL;
	reader = reader_from(capsule);
	if (!reader)
		return NULL;
	failed = pcap_compile(reader->pcap, &program, expression, 1, PCAP_NETMASK_UNKNOWN);
	if (!failed) {
		failed = pcap_setfilter(reader->pcap, &program);
		pcap_freecode(&program);
	}
	if (failed)
		return PyErr_Format(PyExc_ValueError, "%s", pcap_geterr(reader->pcap));
	Py_RETURN_NONE;
}

static PyObject *link_type(PyObject *self, PyObject *capsule)
{
	struct reader *reader = reader_from(capsule);
	const char *name;

	(void)self;
	if (!reader)
		return NULL;
	name = pcap_datalink_val_to_name(reader->link_type);
	return Py_BuildValue("(is)", reader->link_type, name ? name : "unknown");
}

static PyObject *bytes_read(PyObject *self, PyObject *capsule)
{
	struct reader *reader = reader_from(capsule);

	(void)self;
	return reader ? PyLong_FromUnsignedLongLong(reader->bytes_read) : NULL;
}

static uint64_t timestamp_of(const struct pcap_pkthdr *header)
{
	uint64_t seconds = header->ts.tv_sec;

	if (header->ts.tv_sec < 0)
		seconds &= 0xffffffff;	/* a pcap file's 32 bits, unsigned until 2106 */
	return seconds * 1000000000 + header->ts.tv_usec;	/* nanoseconds: see open_pcap */
}

/* Copy the frame into the arena and give it the next row. */
static void keep_packet(struct chunk *chunk, const uint8_t *frame, uint32_t captured,
			const struct packet_meta *meta)
{
	uint32_t kept = captured < chunk->snap_len ? captured : chunk->snap_len;

	memcpy(chunk->arena + chunk->arena_used, frame, kept);
	columns_set(chunk->columns, chunk->rows++, chunk->arena_used, kept, meta);
	chunk->arena_used += (kept + FRAME_ALIGN - 1) & ~(size_t)(FRAME_ALIGN - 1);
}

static void take_packet(struct chunk *chunk, struct tracker *t, int link_type,
			const struct pcap_pkthdr *header, const uint8_t *frame)
{
	struct cursor c = { (void *)frame, (void *)(frame + header->caplen) };
	struct packet_meta meta = {
		.timestamp_ns = timestamp_of(header),
		.wire_len = header->len > header->caplen ? header->len : header->caplen,
	};
	struct tracked tracked;
	struct packet p = {};

	if (meta.wire_len > WIRE_LEN_MAX) {
		tracker_refuse(t, PACKETS_MALFORMED);	/* the record's header is damaged */
		return;
	}
	if (parse_captured(&c, meta.wire_len, link_type, VLAN_NONE, tracker_parse(t), &p) &&
	    tracker_join(t, &p, meta.timestamp_ns)) {
		tracker_refuse(t, p.refusal);
		return;
	}
	if (tracker_add(t, &p, meta.wire_len, meta.timestamp_ns, &tracked) ||
	    tracked.rank >= chunk->first_n)
		return;
	meta.flow_id = tracked.flow_id;
	meta.rank = tracked.rank;
	meta.direction = tracked.direction;
	meta.vlan = p.vlan;
	keep_packet(chunk, frame, header->caplen, &meta);
}

/*
 * 1: there is more, 0: end of the file, -1: damaged, see pcap_geterr. What has come through
 * a pipe is returned before more is waited for.
 */
static int read_chunk(struct reader *reader, struct tracker *t, struct chunk *chunk,
		      uint32_t packets_max)
{
	uint32_t i;

	for (i = 0; i < packets_max && chunk->rows < chunk->rows_max; i++) {
		struct pcap_pkthdr *header;
		const uint8_t *frame;
		int status;

		if (i && must_wait(reader))
			break;
		status = pcap_next_ex(reader->pcap, &header, &frame);
		if (status != 1)
			return status == PCAP_ERROR_BREAK ? 0 : -1;
		take_packet(chunk, t, reader->link_type, header, frame);
	}
	return 1;
}

static PyObject *read_packets(PyObject *self, PyObject *args)
{
	unsigned long long columns, arena;
	PyObject *capsule, *tracker;
	struct chunk chunk = {};
	struct reader *reader;
	unsigned int packets;
	struct tracker *t;
	int status;

	(void)self;
	if (!PyArg_ParseTuple(args, "OOKKIIII", &capsule, &tracker, &columns, &arena, &chunk.rows_max,
			      &chunk.snap_len, &chunk.first_n, &packets))
		return NULL;
	reader = reader_from(capsule);
	t = reader ? tracker_from(tracker) : NULL;
	if (!t)
		return NULL;
	chunk.columns = (const struct packet_columns *)(uintptr_t)columns;
	chunk.arena = (uint8_t *)(uintptr_t)arena;
	reader->thread = PyEval_SaveThread();
	status = read_chunk(reader, t, &chunk, packets);
	PyEval_RestoreThread(reader->thread);
	if (PyErr_Occurred())
		return NULL;
	return Py_BuildValue("(Iiz)", chunk.rows, status > 0,
			     status < 0 ? pcap_geterr(reader->pcap) : NULL);
}

PyMethodDef pcap_methods[] = {
	{ "pcap_open", open_reader, METH_VARARGS,
	  "pcap_open(fd) -> reader with its own descriptor; ValueError: no capture" },
	{ "pcap_filter", set_filter, METH_VARARGS,
	  "pcap_filter(reader, expression); ValueError: libpcap's complaint" },
	{ "pcap_link_type", link_type, METH_O, "pcap_link_type(reader) -> (LINKTYPE, name)" },
	{ "pcap_bytes_read", bytes_read, METH_O, "pcap_bytes_read(reader) -> bytes of the file" },
	{ "pcap_read", read_packets, METH_VARARGS,
	  "pcap_read(reader, tracker, columns, arena, rows, snap_len, first_n, packets) -> "
	  "(rows filled, is there more, what is damaged or None)" },
	{ NULL, NULL, 0, NULL },
};
