/* template/library/attributes.c: value.name and value[key]: methods and members of every type, and what the sandbox keeps away. See library.h. */
#include <math.h>
#include <string.h>

#include "template/library/inner.h"

const char *fm_object_name(fm_value value) {
    switch (value.type) {
    case FM_NONE: return "None";
    case FM_STRING: return value.text->markup ? "markupsafe.Markup object" : "str object";
    case FM_BOOL: return "bool object";
    case FM_INT: return "int object";
    case FM_FLOAT: return "float object";
    case FM_LIST: return "list object";
    case FM_TUPLE: return value.list->group ? "jinja2.filters._GroupTuple object" : "tuple object";
    case FM_DICT: return "dict object";
    case FM_RANGE: return "range object";
    case FM_KEYS: return "dict_keys object";
    case FM_VALUES: return "dict_values object";
    case FM_ITEMS: return "dict_items object";
    case FM_ITERATOR: return "generator object";
    case FM_NAMESPACE: return "jinja2.utils.Namespace object";
    case FM_MACRO: return "jinja2.runtime.Macro object";
    case FM_LOOP: return "jinja2.runtime.LoopContext object";
    case FM_CYCLER: return "jinja2.utils.Cycler object";
    case FM_JOINER: return "jinja2.utils.Joiner object";
    default: return "function object";
    }
}

/* Whether name is one of names, which stand between spaces. */
static bool among(const fm_text *name, const char *names) {
    for (const char *p = names; *p;) {
        size_t n = strcspn(p, " ");
        if (n == name->bytes && memcmp(p, name->data, n) == 0) return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

/* ---- loops */

size_t fm_loop_length(fm_run *run, fm_loop *loop) {
    while (loop->more && loop->more(run, loop)) fm_charge(run, 0);
    return loop->n;
}

static bool has_next(fm_run *run, fm_loop *loop) { return loop->index + 1 < loop->n || (loop->more && loop->more(run, loop)); }

FM_CALLABLE(loop_cycle) {
    if (!rest->n) fm_refuse(run, FM_EFORMAT, "no items for cycling given");
    if (rest->n_named) fm_refuse(run, FM_EFORMAT, "cycle() takes no keyword arguments");
    return rest->values[self.loop->index % rest->n];
}

FM_CALLABLE(loop_changed) {
    fm_list *now = fm_list_new(run, rest->n);
    if (rest->n_named) fm_refuse(run, FM_EFORMAT, "changed() takes no keyword arguments");
    for (size_t i = 0; i < rest->n; i++) fm_list_add(run, now, rest->values[i]);
    const fm_list *before = self.loop->changed;
    bool changed = !before || before->n != now->n;
    for (size_t i = 0; !changed && i < now->n; i++) changed = !fm_same(before->items[i], now->items[i]) && !fm_equal(run, before->items[i], now->items[i]);
    if (changed) self.loop->changed = now;
    return fm_bool(changed);
}

static const fm_function loop_methods[] = {{"cycle", loop_cycle, "*"}, {"changed", loop_changed, "*"}};

static bool loop_member(fm_run *run, fm_loop *loop, const fm_text *name, fm_value *member) {
    if (fm_text_is(name, "first")) {
        *member = fm_bool(loop->index == 0);
    } else if (fm_text_is(name, "last")) {
        *member = fm_bool(!has_next(run, loop));
    } else if (fm_text_is(name, "index") || fm_text_is(name, "index0")) {
        *member = fm_int((int64_t)loop->index + (name->bytes == 5));
    } else if (fm_text_is(name, "length")) {
        *member = fm_int((int64_t)fm_loop_length(run, loop));
    } else if (fm_text_is(name, "revindex") || fm_text_is(name, "revindex0")) {
        *member = fm_int((int64_t)fm_loop_length(run, loop) - (int64_t)loop->index - (name->bytes == 9));
    } else if (fm_text_is(name, "depth") || fm_text_is(name, "depth0")) {
        *member = fm_int(loop->depth + (name->bytes == 5));
    } else if (fm_text_is(name, "previtem")) {
        *member = loop->index ? loop->items[loop->index - 1] : fm_undefined(run, "there is no previous item");
    } else if (fm_text_is(name, "nextitem")) {
        *member = has_next(run, loop) ? loop->items[loop->index + 1] : fm_undefined(run, "there is no next item");
    } else {
        return false;
    }
    return true;
}

/* ---- cyclers */

FM_CALLABLE(cycler_next) {
    fm_cycler *cycler = self.cycler;
    fm_value item = cycler->items->items[cycler->at];
    cycler->at = (cycler->at + 1) % cycler->items->n;
    return item;
}

FM_CALLABLE(cycler_reset) {
    self.cycler->at = 0;
    return fm_none();
}

static const fm_function cycler_methods[] = {{"next", cycler_next, ""}, {"reset", cycler_reset, ""}};

/* ---- numbers */

static fm_value as_number(fm_value value) { return value.type == FM_BOOL ? fm_int(value.truth) : value; }

FM_CALLABLE(number_itself) { return as_number(self); }

FM_CALLABLE(whole_bits) {
    int64_t whole = as_number(self).whole;
    uint64_t size = whole < 0 ? -(uint64_t)whole : (uint64_t)whole;
    return fm_int(size ? 64 - __builtin_clzll(size) : 0);
}

FM_CALLABLE(whole_ones) {
    int64_t whole = as_number(self).whole;
    return fm_int(__builtin_popcountll(whole < 0 ? -(uint64_t)whole : (uint64_t)whole));
}

FM_CALLABLE(real_is_whole) { return fm_bool(isfinite(self.real) && floor(self.real) == self.real); }

static const fm_function whole_methods[] = {{"conjugate", number_itself, ""}, {"bit_length", whole_bits, ""}, {"bit_count", whole_ones, ""}};
static const fm_function real_methods[] = {{"conjugate", number_itself, ""}, {"is_integer", real_is_whole, ""}};

static bool number_member(fm_value value, const fm_text *name, fm_value *member) {
    bool whole = value.type != FM_FLOAT;
    if (fm_text_is(name, "real") || (whole && fm_text_is(name, "numerator"))) {
        *member = as_number(value);
    } else if (fm_text_is(name, "imag")) {
        *member = whole ? fm_int(0) : fm_float(0);
    } else if (whole && fm_text_is(name, "denominator")) {
        *member = fm_int(1);
    } else {
        return false;
    }
    return true;
}

/* ---- all types */

static const char object_names[] =
    "__class__ __delattr__ __dir__ __doc__ __eq__ __format__ __ge__ __getattribute__ __getstate__ __gt__ __hash__ __init__ "
    "__init_subclass__ __le__ __lt__ __ne__ __new__ __reduce__ __reduce_ex__ __repr__ __setattr__ __sizeof__ __str__ __subclasshook__ "
    "__add__ __contains__ __getitem__ __iter__ __len__ __mul__ __rmul__ __mod__ __or__ __ror__ __ior__ __iadd__ __imul__ "
    "__setitem__ __delitem__ __reversed__ __class_getitem__ __getnewargs__ __module__ __dict__ __call__ __html__";

/* What the sandbox keeps away, for it would change the value. */
static const char *unsafe_names(fm_type type) {
    return type == FM_LIST ? "append clear extend insert pop remove reverse sort" : type == FM_DICT ? "clear pop popitem setdefault update" : "";
}

/* What Python has and we do not. */
static const char *unknown_names(fm_value value) {
    switch (value.type) {
    case FM_STRING: return value.text->markup ? "encode translate maketrans escape unescape striptags" : "encode translate maketrans";
    case FM_BOOL:
    case FM_INT: return "as_integer_ratio from_bytes to_bytes";
    case FM_FLOAT: return "as_integer_ratio fromhex hex";
    case FM_KEYS:
    case FM_ITEMS: return "isdisjoint mapping";
    case FM_VALUES: return "mapping";
    case FM_ITERATOR: return "close send throw gi_code gi_frame gi_running gi_suspended gi_yieldfrom";
    case FM_MACRO: return "explicit_caller";
    default: return "";
    }
}

static fm_table methods_of(fm_type type) {
    if (type == FM_INT || type == FM_BOOL) return (fm_table){whole_methods, sizeof whole_methods / sizeof *whole_methods};
    if (type == FM_FLOAT) return (fm_table){real_methods, sizeof real_methods / sizeof *real_methods};
    if (type == FM_STRING) return fm_text_methods();
    if (type == FM_LOOP) return (fm_table){loop_methods, 2};
    if (type == FM_CYCLER) return (fm_table){cycler_methods, 2};
    return fm_container_methods(type);
}

static bool macro_member(fm_run *run, const fm_macro *macro, const fm_text *name, fm_value *member) {
    if (fm_text_is(name, "name")) {
        *member = macro->name ? fm_string(macro->name) : fm_none();
    } else if (fm_text_is(name, "arguments")) {
        fm_list *names = fm_list_new(run, macro->n_parameters);
        for (size_t i = 0; i < macro->n_parameters; i++) fm_list_add(run, names, fm_string(macro->parameters[i]));
        *member = fm_of_list(FM_TUPLE, names);
    } else if (among(name, "catch_kwargs catch_varargs caller")) {
        *member = fm_bool(fm_text_is(name, "caller") ? macro->caller : fm_text_is(name, "catch_kwargs") ? macro->kwargs : macro->varargs);
    } else {
        return false;
    }
    return true;
}

/* Members that are no methods. */
static bool plain_member(fm_run *run, fm_value value, const fm_text *name, fm_value *member) {
    switch (value.type) {
    case FM_LOOP: return loop_member(run, value.loop, name, member);
    case FM_BOOL:
    case FM_INT:
    case FM_FLOAT: return number_member(value, name, member);
    case FM_TUPLE:
        if (!value.list->group || !among(name, "grouper list")) return false;
        *member = value.list->items[fm_text_is(name, "list")];
        return true;
    case FM_CYCLER:
        if (fm_text_is(name, "current")) {
            *member = value.cycler->items->items[value.cycler->at];
        } else if (fm_text_is(name, "pos")) {
            *member = fm_int((int64_t)value.cycler->at);
        } else if (fm_text_is(name, "items")) {
            *member = fm_of_list(FM_TUPLE, value.cycler->items);
        } else {
            return false;
        }
        return true;
    case FM_JOINER:
        if (!among(name, "sep used")) return false;
        *member = fm_text_is(name, "sep") ? fm_string(value.cycler->separator) : fm_bool(value.cycler->at > 0);
        return true;
    case FM_RANGE:
        if (!among(name, "start stop step")) return false;
        *member = fm_int(name->bytes == 5 ? value.range->start : fm_text_is(name, "stop") ? value.range->stop : value.range->step);
        return true;
    case FM_MACRO: return macro_member(run, value.macro, name, member);
    default: return false;
    }
}

static fm_value unsafe(fm_run *run, fm_value value, const fm_text *name) {
    const char *type = value.type == FM_STRING && value.text->markup ? "Markup" : fm_type_name(value);
    return fm_undefined(run, "access to attribute '%.*s' of '%s' object is unsafe.", (int)(name->bytes < 100 ? name->bytes : 100), name->data, type);
}

static fm_value bound(fm_run *run, fm_value self, const fm_function *function) {
    fm_method *method = fm_take(run, sizeof *method);
    *method = (fm_method){self, function};
    return (fm_value){.type = FM_METHOD, .method = method};
}

bool fm_member(fm_run *run, fm_value value, const fm_text *name, fm_value *member) {
    fm_charge(run, 0);
    if (value.type == FM_NAMESPACE) {
        const fm_value *found = fm_dict_find_text(value.dict, name);
        if (!found && !fm_text_is(name, "__class__")) return false;
        *member = name->bytes && name->data[0] == '_' ? unsafe(run, value, name) : *found;
        return true;
    }
    if (name->bytes > 4 && memcmp(name->data, "__", 2) == 0 && among(name, object_names)) {
        *member = unsafe(run, value, name);
        return true;
    }
    if (plain_member(run, value, name, member)) return true;
    fm_table table = methods_of(value.type);
    const fm_function *function = fm_find_function(table.functions, table.n, name);
    if (value.type == FM_FUNCTION && strcmp(value.function->name, "dict") == 0 && fm_text_is(name, "fromkeys")) function = &fm_dict_from_keys;
    if (function) {
        *member = bound(run, value, function);
        return true;
    }
    if (among(name, unsafe_names(value.type))) {
        *member = unsafe(run, value, name);
        return true;
    }
    if (among(name, unknown_names(value))) {
        fm_refuse(run, FM_EUNSUPPORTED, "'%.*s' of '%s' is not known here", (int)name->bytes, name->data, fm_type_name(value));
    }
    return false;
}

static fm_value no_attribute(fm_run *run, fm_value value, const fm_text *name) {
    fm_writer writer = {.run = run};
    fm_write_literal(&writer, "'");
    fm_write_literal(&writer, fm_object_name(value));
    fm_write_literal(&writer, "' has no attribute ");
    fm_write_repr(&writer, fm_marked(run, name, false));
    const fm_text *sentence = fm_written(&writer);
    return fm_undefined(run, "%.*s", (int)(sentence->bytes < 250 ? sentence->bytes : 250), sentence->data);
}

fm_value fm_attribute(fm_run *run, fm_value value, const fm_text *name) {
    fm_value found;
    bool is_item;
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (fm_member(run, value, name, &found)) return found;
    found = fm_index(run, value, fm_string(name), &is_item);
    return is_item ? found : no_attribute(run, value, name);
}

fm_value fm_item(fm_run *run, fm_value value, fm_value key) {
    bool is_item;
    fm_value found = fm_index(run, value, key, &is_item);
    if (is_item) return found;
    if (key.type == FM_STRING) return fm_member(run, value, key.text, &found) ? found : no_attribute(run, value, key.text);
    if (!fm_is_number(key)) return fm_undefined(run, "%s has no element of type %s", fm_object_name(value), fm_type_name(key));
    const fm_text *text = fm_str(run, key);
    return fm_undefined(run, "%s has no element %.*s", fm_object_name(value), (int)text->bytes, text->data);
}
