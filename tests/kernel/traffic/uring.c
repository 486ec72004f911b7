// SPDX-License-Identifier: Apache-2.0
/* io_uring by raw system calls: one submission queue entry at a time. */
#include "traffic.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 16
/* Milliseconds the kernel's polling thread stays awake: short, so that waking it is tested too. */
#define SQPOLL_IDLE 1
/* Operations that IORING_REGISTER_PROBE is asked about. */
#define OPERATIONS 64

static void *map_ring(const struct ring *ring, size_t size, off_t offset)
{
	void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
			    offset);

	if (mapped == MAP_FAILED)
		fail("mmap of the ring");
	return mapped;
}

void ring_open(struct ring *ring, bool sqpoll, bool async)
{
	struct io_uring_params parameters = {
		.flags = sqpoll ? IORING_SETUP_SQPOLL : 0,
		.sq_thread_idle = SQPOLL_IDLE,
	};
	size_t sq_size, cq_size;
	char *sq, *cq;

	ring->fd = (int)syscall(__NR_io_uring_setup, ENTRIES, &parameters);
	if (ring->fd < 0) {
		/* EPERM: kernel.io_uring_disabled, or SQPOLL before 5.11. */
		if (errno == EPERM)
			unsupported("io_uring_setup");
		fail_feature("io_uring_setup");
	}
	ring->sqpoll = sqpoll;
	ring->sqe_flags = async ? IOSQE_ASYNC : 0;
	sq_size = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned int);
	cq_size = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
	sq = map_ring(ring, sq_size, IORING_OFF_SQ_RING);
	cq = map_ring(ring, cq_size, IORING_OFF_CQ_RING);
	ring->sqes = map_ring(ring, parameters.sq_entries * sizeof(struct io_uring_sqe),
			      IORING_OFF_SQES);
	ring->sq_tail = (void *)(sq + parameters.sq_off.tail);
	ring->sq_mask = (void *)(sq + parameters.sq_off.ring_mask);
	ring->sq_flags = (void *)(sq + parameters.sq_off.flags);
	ring->sq_array = (void *)(sq + parameters.sq_off.array);
	ring->cq_head = (void *)(cq + parameters.cq_off.head);
	ring->cq_tail = (void *)(cq + parameters.cq_off.tail);
	ring->cq_mask = (void *)(cq + parameters.cq_off.ring_mask);
	ring->cqes = cq + parameters.cq_off.cqes;
}

/* The mappings go with the process: a way is opened once per thread. */
void ring_close(struct ring *ring)
{
	close(ring->fd);
}

void ring_need(const struct ring *ring, uint8_t opcode)
{
	union {
		struct io_uring_probe head;
		char space[sizeof(struct io_uring_probe) +
			   OPERATIONS * sizeof(struct io_uring_probe_op)];
	} probe = { 0 };
	const struct io_uring_probe_op *operations = probe.head.ops;

	if (syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_PROBE, &probe, OPERATIONS))
		unsupported("IORING_REGISTER_PROBE");
	if (opcode > probe.head.last_op || !(operations[opcode].flags & IO_URING_OP_SUPPORTED)) {
		errno = EOPNOTSUPP;
		unsupported("io_uring operation");
	}
}

static void enter(const struct ring *ring, unsigned int submit)
{
	unsigned int flags = IORING_ENTER_GETEVENTS;

	if (ring->sqpoll) {
		submit = 0;
		atomic_thread_fence(memory_order_seq_cst);
		if (__atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP)
			flags |= IORING_ENTER_SQ_WAKEUP;
	}
	while (syscall(__NR_io_uring_enter, ring->fd, submit, 1, flags, NULL, 0) < 0)
		if (errno != EINTR)
			fail("io_uring_enter");
}

/* Queues one entry; it goes to the kernel with the next ring_wait(). */
void ring_queue(struct ring *ring, const struct ring_request *request)
{
	struct io_uring_sqe *sqes = ring->sqes, *sqe;
	unsigned int tail = *ring->sq_tail, index = tail & *ring->sq_mask;

	sqe = &sqes[index];
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = request->opcode;
	sqe->flags = (uint8_t)(ring->sqe_flags | request->sqe_flags);
	sqe->ioprio = request->ioprio;
	sqe->fd = request->fd;
	sqe->addr = request->address;
	sqe->len = request->length;
	sqe->off = request->offset;
	sqe->msg_flags = request->flags;
	sqe->buf_group = request->group;
	sqe->splice_fd_in = request->splice_from;
	sqe->user_data = request->tag;
	ring->sq_array[index] = index;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	ring->queued++;
}

/* Takes the next completion: its result, with its flags and the request's tag. */
int ring_wait(struct ring *ring, unsigned int *flags, uint64_t *tag)
{
	const struct io_uring_cqe *cqes = ring->cqes, *cqe;
	unsigned int head = *ring->cq_head;
	int result;

	while (ring->queued || head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
		enter(ring, ring->queued);
		ring->queued = 0;
	}
	cqe = &cqes[head & *ring->cq_mask];
	result = cqe->res;
	*flags = cqe->flags;
	*tag = cqe->user_data;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

/* One request and its result, like the system call that it stands for. */
ssize_t ring_run(struct ring *ring, const struct ring_request *request)
{
	unsigned int flags;
	uint64_t tag;
	int result;

	ring_queue(ring, request);
	result = ring_wait(ring, &flags, &tag);
	if (flags & IORING_CQE_F_MORE) /* zero copy: the buffer is free again */
		ring_wait(ring, &flags, &tag);
	if (result < 0) {
		errno = -result;
		return -1;
	}
	return result;
}
