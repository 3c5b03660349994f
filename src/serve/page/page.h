/* serve/page/page.h: the page at / and what it looks at: handlers of routes, on the HTTP thread. */
#ifndef FM_SERVE_PAGE_PAGE_H
#define FM_SERVE_PAGE_PAGE_H

#include "serve/api.h"

/* Made from index.html when the server is built. */
extern const unsigned char fm_page_data[]; /* [fm_page_bytes] */
extern const size_t fm_page_bytes;
extern const char fm_page_policy[]; /* Content-Security-Policy */

/* GET /: the page. It needs no API key: it asks for one. */
int fm_page_index(fm_exchange *x, fm_refusal *why);

/* GET /live: {"sequence": of this answer, "seconds": on a clock that only runs on, "layers", "experts": of each layer, "slots": experts that memory has room for, "expert_bytes": of
 * one in memory, "tokens", "requests", "hits", "disk_bytes": sums since the engine was opened, "state", "uses", "reads": base64 of one item an expert, layer after
 * layer}. state: a byte each, 0 on disk only, 1 being read, 2 in memory, 3 no such expert. uses and reads: 16 bits each, the lower byte first, which wrap. 503 while
 * the model is loaded. */
int fm_page_live(fm_exchange *x, fm_refusal *why);

#endif
