/* hub/hash.h: the two hashes by which the hub names contents: sha256 of large files, and git's of small ones (sha1 of "blob BYTES\0" and the contents). */
#ifndef FM_HUB_HASH_H
#define FM_HUB_HASH_H

#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fm_hub_hash {
    bool git;
    struct sha1_ctx sha1;
    struct sha256_ctx sha256;
} fm_hub_hash;

/* wanted: the hash that is to come out, whose length says which it is; bytes: of the whole contents. */
void fm_hub_hash_open(fm_hub_hash *hash, const char *wanted, uint64_t bytes);
void fm_hub_hash_feed(fm_hub_hash *hash, const void *data, size_t bytes);
/* Hexadecimal digits, 40 or 64; the hash is over then. */
void fm_hub_hash_text(fm_hub_hash *hash, char text[65]);

#endif
