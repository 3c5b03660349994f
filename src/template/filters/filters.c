/* template/filters/filters.c: finds a filter by its name, and the filters of any value. See library.h. */
#include "template/filters/filters.h"

FM_CALLABLE(filter_default) {
    if (self.type != FM_UNDEFINED && (!fm_flag(given[1]) || fm_true(&self))) return self;
    return given[0].type == FM_MISSING ? fm_string_of(run, "") : given[0];
}

FM_CALLABLE(filter_attr) {
    const fm_text *name = fm_text_of(run, given[0], "an attribute's name");
    fm_value member;
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (fm_member(run, self, name, &member)) return member;
    return fm_undefined(run, "'%s' has no attribute '%.*s'", fm_object_name(self), (int)(name->bytes < 100 ? name->bytes : 100), name->data);
}

FM_CALLABLE(filter_string) { return fm_string(fm_str(run, self)); }

FM_CALLABLE(filter_safe) { return fm_marked(run, fm_str(run, self), true); }

FM_CALLABLE(filter_escape) { return fm_string(fm_escape(run, self)); }

FM_CALLABLE(filter_forceescape) { return fm_string(fm_escape(run, fm_marked(run, fm_str(run, self), false))); }

/* tojson as transformers has it: json.dumps. */
FM_CALLABLE(filter_tojson) {
    fm_writer writer = {.run = run}, spaces = {.run = run};
    fm_json_style style = {.ascii = fm_flag(given[0]), .sort = fm_flag(given[3])};
    if (given[1].type == FM_STRING) {
        style.indent = given[1].text;
    } else if (fm_given(given[1])) {
        int64_t width = fm_whole(run, given[1], "tojson's indent");
        if (width > 0) fm_write_many(&spaces, " ", 1, (size_t)width);
        style.indent = fm_written(&spaces);
    }
    style.item = fm_text_borrow(run, style.indent ? "," : ", ", style.indent ? 1 : 2);
    style.colon = fm_text_borrow(run, ": ", 2);
    if (fm_given(given[2])) {
        const fm_list *separators = fm_items(run, given[2]);
        if (separators->n != 2) fm_refuse(run, FM_EFORMAT, "tojson's separators are two, not %zu", separators->n);
        style.item = fm_text_of(run, separators->items[0], "a separator");
        style.colon = fm_text_of(run, separators->items[1], "a separator");
    }
    fm_write_json(&writer, self, &style);
    return fm_written_string(&writer);
}

FM_CALLABLE(filter_pprint) { return fm_pretty(run, self); }

FM_CALLABLE(refuse_random) { fm_refuse(run, FM_EUNSUPPORTED, "the filter 'random' is not known here: no two renderings would agree"); }

FM_CALLABLE(refuse_urlize) { fm_refuse(run, FM_EUNSUPPORTED, "the filter 'urlize' is not known here"); }

static const fm_function filters[] = {
    {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?"},
    {"default", filter_default, "default_value? boolean?"},
    {"d", filter_default, "default_value? boolean?"},
    {"string", filter_string, "/"},
    {"safe", filter_safe, ""},
    {"escape", filter_escape, "/"},
    {"e", filter_escape, "/"},
    {"forceescape", filter_forceescape, ""},
    {"attr", filter_attr, "name"},
    {"pprint", filter_pprint, ""},
    {"random", refuse_random, "*"},
    {"urlize", refuse_urlize, "*"},
};

const fm_function *fm_filter(const fm_text *name) {
    const fm_table tables[] = {{filters, sizeof filters / sizeof *filters}, fm_text_filters(), fm_list_filters(), fm_number_filters(), fm_word_filters()};
    const fm_function *found = NULL;
    for (size_t i = 0; !found && i < sizeof tables / sizeof *tables; i++) found = fm_find_function(tables[i].functions, tables[i].n, name);
    return found;
}
