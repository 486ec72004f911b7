/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * DNS answers as they arrive at sockets, as in dns.h.
 */
#ifndef BCC_DNS_H
#define BCC_DNS_H

enum {
	DNS_PORT = 53,
	IPV4_MIN_BYTES = 20,
	IPV6_BYTES = 40,
	UDP_BYTES = 8,
	TCP_MIN_BYTES = 20,
	DNS_HEADER_BYTES = 12,
	DNS_IS_ANSWER = 0x80, /* QR, in the third byte */
};

/* `last` is the index of the payload's last byte: before 6.8 the verifier does not conclude from a comparison with zero
 * that there is a byte (d028f87517d6), which bpf_skb_load_bytes() asks for. */
static __always_inline void send_dns(struct __sk_buff *skb, u32 offset, u64 last, u32 protocol)
{
	struct control *control = get_control();
	struct dns_record *record;
	struct dns_room *room;
	u32 zero = 0;
	u64 bytes;
	u16 flags = 0;

	room = dns_scratch.lookup(&zero);
	if (!room || !control)
		return;
	record = &room->record;
	if (last >= DNS_BYTES) {
		last = DNS_BYTES - 1;
		flags = DNS_CUT;
	}
	/* The verifier takes the bound from the mask; the compiler would leave it out if it knew of the other one. */
	asm volatile("" : "+r"(last));
	bytes = (last & (DNS_ROOM - 1)) + 1;
	record->header.kind = RECORD_DNS;
	record->header.flags = flags;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->cookie = generate_cookie(skb);
	/* User space knows the namespace from the socket's flow records. */
	record->netns = 0;
	record->payload_bytes = bytes;
	record->protocol = protocol;
	if (bpf_skb_load_bytes(skb, offset, record->payload, bytes))
		return;
	if (protocol == IPPROTO_UDP && !(record->payload[2] & DNS_IS_ANSWER))
		return;
	bytes += sizeof(*record) - DNS_BYTES;
	/* Byte counts come first: answers may have half of the ring, however many there are. */
	if (get_unread_bytes() >= 2ULL * control->wakeup_bytes ||
	    records.ringbuf_output(record, bytes, wakeup_flag(bytes)))
		add_counter(COUNTER_DNS_RECORDS_LOST, 1);
}

/* cgroup_skb/ingress: every packet that arrives at a socket, from its IP header on. Always lets the packet pass. */
int find_answers(struct __sk_buff *skb)
{
	u8 version = 0, protocol = 0, length = 0;
	__be16 port = 0;
	u32 offset;

	if (bpf_skb_load_bytes(skb, 0, &version, 1))
		return 1;
	if (version >> 4 == 4) {
		if (bpf_skb_load_bytes(skb, 9, &protocol, 1))
			return 1;
		offset = (version & 15) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, 6, &protocol, 1))
			return 1;
		offset = IPV6_BYTES;
	}
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
		return 1;
	if (bpf_skb_load_bytes(skb, offset, &port, 2) || port != bpf_htons(DNS_PORT))
		return 1;
	if (!is_active())
		return 1;
	if (protocol == IPPROTO_UDP) {
		offset += UDP_BYTES;
		if (skb->len < offset + DNS_HEADER_BYTES)
			return 1;
	} else {
		if (bpf_skb_load_bytes(skb, offset + 12, &length, 1))
			return 1;
		offset += (length >> 4) * 4;
		if (skb->len <= offset)
			return 1;
	}
	send_dns(skb, offset, skb->len - offset - 1, protocol);
	return 1;
}

#endif
