/* serve/page/page.c: the page itself. */
#include "serve/page/page.h"

int fm_page_index(fm_exchange *x, fm_refusal *why) {
    (void)why;
    fm_reply_header(x, "Content-Security-Policy", fm_page_policy);
    fm_reply_header(x, "Referrer-Policy", "no-referrer");
    fm_reply_header(x, "Cache-Control", "no-cache");
    fm_reply_bytes(x, 200, "text/html; charset=utf-8", fm_page_data, fm_page_bytes);
    return 0;
}
