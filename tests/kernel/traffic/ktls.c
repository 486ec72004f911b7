// SPDX-License-Identifier: Apache-2.0
/* TLS 1.2 in the kernel, AES-GCM-128, with keys that are no secret. */
#include "traffic.h"

#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <string.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* No handshake: both ends use the same key for both directions, from record 0. */
void ktls_start(int fd)
{
	struct tls12_crypto_info_aes_gcm_128 key = {
		.info = { .version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128 },
	};

	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls"))) {
		/* ENOENT: neither built in nor a module that could be loaded. */
		if (errno == ENOENT)
			unsupported("TCP_ULP tls");
		fail_feature("TCP_ULP tls");
	}
	memset(key.key, 0x4b, sizeof(key.key));
	memset(key.salt, 0x5a, sizeof(key.salt));
	if (setsockopt(fd, SOL_TLS, TLS_TX, &key, sizeof(key)))
		fail_feature("TLS_TX");
	if (setsockopt(fd, SOL_TLS, TLS_RX, &key, sizeof(key)))
		fail_feature("TLS_RX");
}
