/* tests/fuzz/fuzz_stream.c: any bytes as a server's streamed answer; the first says how they are cut. Whatever comes, calls are begun and ended in order, and the message is
 * one in JSON. */
#include <assert.h>
#include <stdlib.h>

#include "cli/remote/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_event(void *user, const fm_event *e) {
    int *open = user; /* the call that is, or -1 */
    assert(e->text && e->type != FM_EVENT_STOP);
    if (e->type == FM_EVENT_CALL) {
        assert(*open == -1 && e->name && e->id);
        *open = e->call;
    } else if (e->type == FM_EVENT_ARGUMENTS) {
        assert(*open == e->call && e->bytes);
    } else if (e->type == FM_EVENT_CALL_END) {
        assert(*open == e->call);
        *open = -1;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int open = -1;
    struct stream s = {.event = on_event, .user = &open};
    fm_error err = {0};
    size_t step = size ? (size_t)data[0] + 1 : 1;
    fm_stream_open(&s);
    for (size_t at = 1; at < size; at += step)
        if (fm_stream_feed(&s, (const char *)data + at, size - at < step ? size - at : step)) break;
    int rc = fm_stream_end(&s, &err);
    assert(open == -1 && (rc == 0 || (rc == err.code && err.message[0])));
    char *message = fm_stream_message(&s);
    json_t *json = json_loads(message ? message : "", 0, NULL);
    assert(json_is_string(json_object_get(json, "content")));
    json_decref(json);
    free(message);
    fm_stream_close(&s);
    return 0;
}
