/* hub/hash.c: see hash.h. */
#include "hub/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void fm_hub_hash_open(fm_hub_hash *hash, const char *wanted, uint64_t bytes) {
    char head[40];
    hash->git = strlen(wanted) == 40;
    sha1_init(&hash->sha1);
    sha256_init(&hash->sha256);
    int n = snprintf(head, sizeof head, "blob %" PRIu64, bytes);
    if (hash->git) sha1_update(&hash->sha1, (size_t)n + 1, (const uint8_t *)head);
}

void fm_hub_hash_feed(fm_hub_hash *hash, const void *data, size_t bytes) {
    if (hash->git)
        sha1_update(&hash->sha1, bytes, data);
    else
        sha256_update(&hash->sha256, bytes, data);
}

void fm_hub_hash_text(fm_hub_hash *hash, char text[65]) {
    uint8_t digest[SHA256_DIGEST_SIZE];
    int n = hash->git ? SHA1_DIGEST_SIZE : SHA256_DIGEST_SIZE;
    if (hash->git)
        sha1_digest(&hash->sha1, SHA1_DIGEST_SIZE, digest);
    else
        sha256_digest(&hash->sha256, SHA256_DIGEST_SIZE, digest);
    for (int i = 0; i < n; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}
