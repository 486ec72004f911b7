/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * When a record wakes who reads the ring.
 */
#ifndef WAKEUP_H
#define WAKEUP_H

/* Readers poll the ring's descriptor; without this they look once a second. A wake-up is an interrupt, which takes far
 * longer than all else here (5 us in a virtual machine): above the mark only the record that begins a step of the fill
 * wakes, and the one after it, as two CPUs may begin a step at once and see the fill of both. */
#define WAKEUP_STEP	  16384
#define RING_HEADER_BYTES 8 /* before each record (BPF_RINGBUF_HDR_SZ) */

/* `fill` is that with the record in it. */
static __always_inline __u64 wakeup_at(__u64 fill, __u64 mark, __u64 record_bytes)
{
	__u64 two_records = 2 * (record_bytes + RING_HEADER_BYTES);
	bool wakes = fill >= mark && (fill - mark) % WAKEUP_STEP < two_records;

	return wakes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

#endif
