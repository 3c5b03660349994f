/* tests/terminal/store.c: conversations as files: written, found, read back; damaged ones refused. */
#include "cli/chat/store.h"

#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

static char folder[] = "/tmp/flash-moe-store-XXXXXX";

static void save(struct talk *talk, const char *id, int64_t changed_ms) {
    char name[64], path[PATH_MAX];

    snprintf(talk->id, sizeof talk->id, "%s", id);
    talk->changed_ms = changed_ms;
    snprintf(name, sizeof name, "sessions/%s.json", id);
    CHECK(fm_data_path(path, sizeof path, name) != NULL, "no path");
    MUST(fm_talk_save(talk, path, err));
}

static void test_messages(void) {
    struct talk talk;

    MUST(fm_talk_open(&talk, "/", err));
    CHECK(strcmp(talk.model, "/") == 0 && strlen(talk.id) == 20 && *fm_talk_system(&talk) == 0, "%s %s", talk.model, talk.id);
    MUST(fm_talk_add(&talk, "user", "h\xff\xc3\xa4", 4, err));
    CHECK(strcmp(fm_talk_text(json_array_get(talk.messages, 0)), "h\xef\xbf\xbd\xc3\xa4") == 0, "repaired");
    MUST(fm_talk_set_system(&talk, "one", err));
    MUST(fm_talk_set_system(&talk, "two", err));
    CHECK(json_array_size(talk.messages) == 2 && strcmp(fm_talk_system(&talk), "two") == 0, "%s", fm_talk_system(&talk));
    MUST(fm_talk_add_json(&talk, "{\"role\": \"assistant\", \"content\": null}", err));
    CHECK(fm_talk_add_json(&talk, "{\"role\": ", &(fm_error){0}) == FM_EFORMAT, "no JSON");
    CHECK(*fm_talk_text(json_array_get(talk.messages, 2)) == 0 && fm_talk_last(&talk, "user") == 1 && fm_talk_last(&talk, "tool") == -1, "places");
    fm_talk_cut(&talk, 1);
    MUST(fm_talk_set_system(&talk, "", err));
    CHECK(json_array_size(talk.messages) == 0 && fm_talk_n_turns(&talk) == 0, "%zu left", json_array_size(talk.messages));
    fm_talk_close(&talk);
}

static void test_folder(void) {
    struct talk talk, back = {0};
    struct talk_entry *entries;
    char path[PATH_MAX];
    fm_error error = {0};
    struct stat st;

    CHECK(fm_talk_find(path, NULL, &error) == FM_EINVAL && strstr(error.message, "no session"), "%s", error.message);
    MUST(fm_talk_open(&talk, "/", err));
    MUST(fm_talk_set_system(&talk, "be brief", err));
    MUST(fm_talk_add(&talk, "user", "first\nline", 10, err));
    save(&talk, "20250101-000000-aaaa", 100);
    save(&talk, "20250102-000000-bbbb", 300);
    save(&talk, "20250102-000000-cccc", 200);
    CHECK(fm_talk_list(&entries, &error) == 3 && strcmp(entries[0].id, "20250102-000000-bbbb") == 0 && strcmp(entries[2].id, "20250101-000000-aaaa") == 0,
          "order");
    CHECK(strcmp(entries[0].title, "first line") == 0 && entries[0].n_turns == 1 && entries[0].changed_ms == 300, "%s", entries[0].title);
    free(entries);
    MUST(fm_talk_find(path, NULL, err));
    CHECK(strstr(path, "bbbb.json"), "%s", path);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600, "mode %o", (unsigned)st.st_mode);
    MUST(fm_talk_find(path, "20250101", err));
    MUST(fm_talk_load(&back, path, err));
    CHECK(strcmp(back.id, "20250101-000000-aaaa") == 0 && json_equal(back.messages, talk.messages) && strcmp(back.model, "/") == 0, "%s", back.id);
    CHECK(fm_talk_find(path, "20250102", &error) == FM_EINVAL && strstr(error.message, "several"), "%s", error.message);
    CHECK(fm_talk_find(path, "2024", &error) == FM_EINVAL && strstr(error.message, "'2024'"), "%s", error.message);
    fm_talk_close(&back);
    fm_talk_close(&talk);
}

static void test_damaged(void) {
    static const char *const cases[][2] = {
        {"", "is no JSON"},
        {"{\"format\": \"other\"}", "\"format\""},
        {"{\"format\": \"flash-moe conversation 1\", \"id\": \"../../x\", \"messages\": []}", "\"id\""},
        {"{\"format\": \"flash-moe conversation 1\", \"id\": \"1\", \"messages\": {}}", "\"messages\""},
        {"{\"format\": \"flash-moe conversation 1\", \"id\": \"1\", \"messages\": [3]}", "message 0 is no object"},
        {"{\"format\": \"flash-moe conversation 1\", \"id\": \"1\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"x\"}]}",
         "message 1 has no role"},
        {"{\"format\": \"flash-moe conversation 1\", \"id\": \"1\", \"messages\": [{\"role\": \"user\", \"content\": 5}]}", "message 0 has a content"},
    };
    struct talk talk;
    char path[PATH_MAX];

    MUST(fm_talk_open(&talk, "/", err));
    snprintf(path, sizeof path, "%s/damaged.json", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_error error = {0};
        FILE *file = fopen(path, "w");
        fputs(cases[i][0], file);
        fclose(file);
        CHECK(fm_talk_load(&talk, path, &error) == FM_EFORMAT && strstr(error.message, path) && strstr(error.message, cases[i][1]), "case %zu: %s", i,
              error.message);
        CHECK(talk.messages != NULL, "it is as it was");
    }
    fm_error error = {0};
    CHECK(fm_talk_load(&talk, "/no/such/file", &error) == FM_EIO && fm_talk_save(&talk, "/no/such/file", &error) == FM_EIO, "%s", error.message);
    fm_talk_close(&talk);
}

int main(void) {
    char command[128];

    if (!mkdtemp(folder)) return 1;
    setenv("XDG_DATA_HOME", folder, 1);
    test_messages();
    test_folder();
    test_damaged();
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0, "%s", command);
    return TEST_END();
}
