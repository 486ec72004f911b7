/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * DNS answers as they arrive at sockets, whoever asked: a program with a resolver of its own, a static binary, the
 * C library, a local resolver. User space takes them apart; here only their source port is looked at.
 */
#ifndef DNS_H
#define DNS_H

/* include/uapi/linux/bpf.h: fixed layout, no relocation. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	struct bpf_sock *sk;
};

enum {
	DNS_PORT = 53,
	IPV4_MIN_BYTES = 20,
	IPV6_BYTES = 40,
	UDP_BYTES = 8,
	TCP_MIN_BYTES = 20,
	DNS_HEADER_BYTES = 12,
	DNS_IS_ANSWER = 0x80, /* QR, in the third byte */
};

/* A record is too large for the stack and of any length, so it is put together here. Ingress hooks run with
 * softirqs disabled: no other one on this CPU gets in between. Holds nothing from one packet to the next, so the loader
 * does not pin it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_record);
} dns_scratch SEC(".maps");

/* Byte counts come first: answers may have half of the ring, however many there are. */
static __always_inline bool is_ring_half_full(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) >= 2ULL * control.wakeup_bytes;
}

/* `last` is the index of the payload's last byte: before 6.8 the verifier does not conclude from a comparison with zero
 * that there is a byte (d028f87517d6), which bpf_skb_load_bytes() asks for. */
static __noinline int send_dns(struct __sk_buff *skb, __u32 offset, __u32 last, __u32 protocol,
			       enum dns_flags flags)
{
	struct socket_state *state = NULL;
	struct dns_record *record;
	struct bpf_sock *sk;
	__u32 zero = 0, bytes;

	if (!skb)
		return 1;
	record = bpf_map_lookup_elem(&dns_scratch, &zero);
	if (!record)
		return 1;
	/* Again, since a function of its own is checked for any argument. */
	if (last >= DNS_BYTES)
		last = DNS_BYTES - 1;
	bytes = last + 1;
	sk = skb->sk;
	if (sk)
		state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	record->header.kind = RECORD_DNS;
	record->header.flags = flags;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->cookie = bpf_get_socket_cookie(skb);
	/* 0 where the answer has overtaken the return of the send that it answers: user space knows the namespace
	 * once the socket's flow record arrives. */
	record->netns = state ? state->netns : 0;
	record->payload_bytes = bytes;
	record->protocol = protocol;
	if (bpf_skb_load_bytes(skb, offset, record->payload, bytes))
		return 1;
	if (protocol == IPPROTO_UDP && !(record->payload[2] & DNS_IS_ANSWER))
		return 1;
	bytes += sizeof(*record) - DNS_BYTES;
	if (is_ring_half_full() ||
	    bpf_ringbuf_output(&records, record, bytes, wakeup_flag(bytes, false)))
		add_counter(COUNTER_DNS_RECORDS_LOST, 1);
	return 1;
}

/* Not every receive asks for the address, so the last one to arrive on an unconnected socket is noted. */
static __always_inline void note_source(struct __sk_buff *skb, const __u8 *packet, __be16 port)
{
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	struct bpf_sock *sk = skb->sk;
	struct socket_state *state;

	if (!sk || sk->dst_port || !is_active())
		return;
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state || state->names_peers)
		return;
	if (packet[0] >> 4 == 4)
		map_ipv4(state->noted_address, *(const __be32 *)(packet + 12));
	else if (packet + IPV6_BYTES <= end)
		__builtin_memcpy(state->noted_address, packet + 8, 16);
	state->noted_port = bpf_ntohs(port);
}

/* Sees every packet that arrives at a socket, from its IP header on. IPv6 extension headers, which no resolver
 * sends, are not walked. Always lets the packet pass. */
SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *skb)
{
	const __u8 *packet = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	const __u8 *transport;
	__u32 offset, bytes;
	__u8 protocol;

	if (packet + IPV4_MIN_BYTES + UDP_BYTES > end)
		return 1;
	if (packet[0] >> 4 == 4) {
		protocol = packet[9];
		offset = (packet[0] & 15) * 4;
	} else {
		protocol = packet[6];
		offset = IPV6_BYTES;
	}
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP && protocol != IPPROTO_UDPLITE)
		return 1;
	transport = packet + offset;
	/* Or the compiler computes it again for each use, and the verifier has checked another pointer. */
	asm volatile("" : "+r"(transport));
	if (transport + UDP_BYTES > end)
		return 1;
	if (protocol != IPPROTO_TCP)
		note_source(skb, packet, *(const __be16 *)transport);
	if (*(const __be16 *)transport != bpf_htons(DNS_PORT) || protocol == IPPROTO_UDPLITE)
		return 1;
	if (is_abandoned())
		return 1;
	if (protocol == IPPROTO_UDP) {
		offset += UDP_BYTES;
		if (skb->len < offset + DNS_HEADER_BYTES)
			return 1;
	} else {
		if (transport + TCP_MIN_BYTES > end)
			return 1;
		offset += (transport[12] >> 4) * 4;
		if (skb->len <= offset)
			return 1;
	}
	bytes = skb->len - offset;
	return send_dns(skb, offset, bytes - 1, protocol, bytes > DNS_BYTES ? DNS_CUT : 0);
}

#endif
