/* template/scopes.c: gives every name of a parsed template its place. See syntax.h.
 *
 * jinja2 compiles a template to Python functions and decides by reading, not by running, which variable a name means and how it begins: a name that a scope only reads
 * is the variable around it, or else is looked up once where the scope begins; one that it sets is its own, and begins as the one around it, or with nothing. What is set in
 * some branches of an if only begins as if it were read. This file is those rules. */
#include <string.h>

#include "template/syntax.h"

/* The places of a function: scopes of one level within it share that of a name, as they are one local in jinja2's Python. Macros that outlive their scope see it. */
typedef struct fm_place {
    const fm_text *name;
    uint32_t level;
} fm_place;

typedef struct fm_function_scope {
    uint32_t depth;
    fm_place *places; /* by slot */
    uint32_t n, cap;
} fm_function_scope;

typedef struct fm_variable {
    const fm_text *name;
    fm_load load;
    bool parameter, stored;
} fm_variable;

typedef struct fm_symbols {
    struct fm_symbols *parent;
    fm_function_scope *function;
    uint32_t level;
    fm_variable *variables;
    size_t n, cap;
} fm_symbols;

typedef struct fm_resolver {
    fm_run *run;
    fm_dict *numbers; /* of globals */
    fm_tree *tree;
    size_t cap;
} fm_resolver;

/* ---- symbols */

static fm_symbols *inner(fm_resolver *r, fm_symbols *parent, fm_function_scope *function) {
    fm_symbols *symbols = fm_take_zeroed(r->run, sizeof *symbols);
    symbols->parent = parent;
    symbols->function = function;
    symbols->level = parent ? parent->level + 1 : 0;
    return symbols;
}

static fm_function_scope *new_function(fm_resolver *r, fm_function_scope *outer) {
    fm_function_scope *function = fm_take_zeroed(r->run, sizeof *function);
    function->depth = outer ? outer->depth + 1 : 0;
    return function;
}

static fm_symbols copy(fm_resolver *r, const fm_symbols *symbols) {
    fm_symbols branch = *symbols;
    size_t bytes = symbols->n * sizeof *symbols->variables;
    branch.variables = fm_take_more(r->run, symbols->variables, bytes, bytes);
    branch.cap = symbols->n;
    return branch;
}

static fm_variable *find_here(fm_resolver *r, const fm_symbols *symbols, const fm_text *name) {
    fm_charge(r->run, symbols->n);
    for (size_t i = 0; i < symbols->n; i++) {
        if (symbols->variables[i].name == name) return &symbols->variables[i];
    }
    return NULL;
}

static fm_variable *find(fm_resolver *r, const fm_symbols *symbols, const fm_text *name, const fm_symbols **where) {
    for (; symbols; symbols = symbols->parent) {
        fm_variable *variable = find_here(r, symbols, name);
        if (where) *where = symbols;
        if (variable) return variable;
    }
    return NULL;
}

static uint32_t slot_of(fm_resolver *r, fm_symbols *symbols, const fm_text *name) {
    fm_function_scope *function = symbols->function;
    fm_charge(r->run, function->n);
    for (uint32_t i = 0; i < function->n; i++) {
        if (function->places[i].name == name && function->places[i].level == symbols->level) return i;
    }
    if (function->n == function->cap) {
        uint32_t cap = function->cap ? 2 * function->cap : 8;
        function->places = fm_take_more(r->run, function->places, function->n * sizeof *function->places, cap * sizeof *function->places);
        function->cap = cap;
    }
    function->places[function->n] = (fm_place){name, symbols->level};
    return function->n++;
}

static fm_variable *add(fm_resolver *r, fm_symbols *symbols, fm_variable variable) {
    if (symbols->n == symbols->cap) {
        size_t cap = symbols->cap ? 2 * symbols->cap : 8;
        symbols->variables = fm_take_more(r->run, symbols->variables, symbols->n * sizeof variable, cap * sizeof variable);
        symbols->cap = cap;
    }
    symbols->variables[symbols->n] = variable;
    return &symbols->variables[symbols->n++];
}

static fm_variable *define(fm_resolver *r, fm_symbols *symbols, const fm_text *name) {
    return add(r, symbols, (fm_variable){.name = name, .load = {.kind = FM_LOAD_NOTHING, .slot = slot_of(r, symbols, name)}});
}

static uint32_t global(fm_resolver *r, const fm_text *name) {
    fm_tree *tree = r->tree;
    const fm_value *found = fm_dict_find_text(r->numbers, name);
    if (found) return (uint32_t)found->whole;
    if (fm_text_is(name, "self")) fm_refuse(r->run, FM_EUNSUPPORTED, "the variable 'self' is not supported");
    if (tree->n_globals == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 32;
        tree->globals = fm_take_more(r->run, tree->globals, tree->n_globals * sizeof *tree->globals, r->cap * sizeof *tree->globals);
    }
    char *ended = fm_take(r->run, name->bytes + 1);
    memcpy(ended, name->data, name->bytes);
    ended[name->bytes] = 0;
    tree->globals[tree->n_globals] = fm_text_borrow(r->run, ended, name->bytes);
    fm_dict_set(r->run, r->numbers, fm_string(name), fm_int((int64_t)tree->n_globals));
    return (uint32_t)tree->n_globals++;
}

/* It begins as the variable of its name around it, or else as the global. False: only the former, and there is none. */
static bool begin_as_around(fm_resolver *r, fm_symbols *symbols, fm_variable *variable, bool or_global) {
    const fm_symbols *where;
    const fm_variable *outer = find(r, symbols->parent, variable->name, &where);
    if (!outer && !or_global) return false;
    variable->load.kind = outer ? FM_LOAD_OUTER : FM_LOAD_GLOBAL;
    variable->load.up = outer ? symbols->function->depth - where->function->depth : 0;
    variable->load.from = outer ? outer->load.slot : global(r, variable->name);
    return true;
}

static void load(fm_resolver *r, fm_symbols *symbols, const fm_text *name) {
    if (find(r, symbols, name, NULL)) return;
    uint32_t number = global(r, name);
    fm_variable *variable = define(r, symbols, name);
    variable->load.kind = FM_LOAD_GLOBAL;
    variable->load.from = number;
}

static void store(fm_resolver *r, fm_symbols *symbols, const fm_text *name) {
    fm_variable *variable = find_here(r, symbols, name);
    if (!variable) {
        variable = define(r, symbols, name);
        begin_as_around(r, symbols, variable, false);
    }
    variable->stored = true;
}

static uint32_t declare(fm_resolver *r, fm_symbols *symbols, const fm_text *name) {
    fm_variable *variable = find_here(r, symbols, name);
    if (!variable) variable = define(r, symbols, name);
    variable->parameter = variable->stored = true;
    return variable->load.slot;
}

/* Joins the branches of an if into symbols. */
static void join(fm_resolver *r, fm_symbols *symbols, const fm_symbols branches[3]) {
    fm_symbols before = copy(r, symbols);
    for (int b = 0; b < 3; b++) {
        for (size_t i = 0; i < branches[b].n; i++) {
            const fm_variable *from = &branches[b].variables[i];
            fm_variable *to = find_here(r, symbols, from->name);
            bool stored = from->stored || (to && to->stored);
            if (to) {
                *to = *from;
            } else {
                to = add(r, symbols, *from);
            }
            to->stored = stored;
        }
    }
    for (size_t i = 0; i < symbols->n; i++) {
        fm_variable *variable = &symbols->variables[i];
        const fm_variable *old = find_here(r, &before, variable->name);
        int n = 0;
        if (!variable->stored || (old && old->stored)) continue;
        for (int b = 0; b < 3; b++) {
            const fm_variable *in = find_here(r, &branches[b], variable->name);
            n += in && in->stored;
        }
        if (n < 3) begin_as_around(r, symbols, variable, true);
    }
}

/* ---- what a scope reads and sets, without what the scopes within it do */

static void visit(fm_resolver *r, fm_symbols *symbols, const fm_node *node);

static void visit_items(fm_resolver *r, fm_symbols *symbols, const fm_node *node) {
    for (size_t i = 0; i < node->n; i++) visit(r, symbols, node->items[i]);
}

static void visit_target(fm_resolver *r, fm_symbols *symbols, const fm_node *target, bool parameter) {
    if (target->kind == FM_NODE_TUPLE) {
        for (size_t i = 0; i < target->n; i++) visit_target(r, symbols, target->items[i], parameter);
    } else if (target->kind == FM_NODE_MEMBER) {
        load(r, symbols, target->name);
    } else if (parameter) {
        declare(r, symbols, target->name);
    } else {
        store(r, symbols, target->name);
    }
}

/* An if of n items: test, body, and then the elifs and the else. */
static void visit_if(fm_resolver *r, fm_symbols *symbols, fm_node *const *items, size_t n) {
    visit(r, symbols, items[0]);
    fm_symbols branches[3] = {copy(r, symbols), copy(r, symbols), copy(r, symbols)};
    visit(r, &branches[0], items[1]);
    for (size_t i = 2; i + 1 < n; i += 2) visit_if(r, &branches[1], items + i, 2);
    if (n % 2) visit(r, &branches[2], items[n - 1]);
    join(r, symbols, branches);
}

static void visit_parts(fm_resolver *r, fm_symbols *symbols, const fm_node *node) {
    visit(r, symbols, node->a);
    visit(r, symbols, node->b);
    visit(r, symbols, node->c);
    visit_items(r, symbols, node);
    for (size_t i = 0; i < node->n_names; i++) visit(r, symbols, node->named[i]);
    visit(r, symbols, node->star);
    visit(r, symbols, node->star_star);
}

static void visit(fm_resolver *r, fm_symbols *symbols, const fm_node *node) {
    if (!node) return;
    r->run->line = node->line;
    fm_charge(r->run, 0);
    switch (node->kind) {
    case FM_NODE_NAME: load(r, symbols, node->name); break;
    case FM_NODE_BODY: visit_items(r, symbols, node); break;
    case FM_NODE_IF: visit_if(r, symbols, node->items, node->n); break;
    case FM_NODE_FOR: visit(r, symbols, node->b); break;
    case FM_NODE_SET:
        visit(r, symbols, node->b);
        visit_target(r, symbols, node->a, false);
        break;
    case FM_NODE_SET_BLOCK: visit_target(r, symbols, node->a, false); break;
    case FM_NODE_MACRO: store(r, symbols, node->name); break;
    case FM_NODE_CALL_BLOCK:
    case FM_NODE_FILTER_BLOCK: visit(r, symbols, node->a); break;
    case FM_NODE_WITH:
        for (size_t i = 1; i < node->n; i += 2) visit(r, symbols, node->items[i]);
        break;
    default: visit_parts(r, symbols, node);
    }
}

/* ---- places of names. Each returns how deep the node is. */

static int place(fm_resolver *r, fm_symbols *symbols, fm_node *node);

/* Declares a name that the language itself gives a meaning. */
static uint32_t declare_special(fm_resolver *r, fm_symbols *symbols, const char *name) {
    const fm_text text = {.data = name, .bytes = strlen(name)};
    const fm_value *found = fm_dict_find_text(r->tree->names, &text);
    return declare(r, symbols, found ? found->text : fm_text_borrow(r->run, name, text.bytes)); /* else nothing names it */
}

static int deeper(int a, int b) { return a > b ? a : b; }

static void place_name(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    const fm_symbols *where = symbols;
    load(r, symbols, node->name); /* a name that nothing announced: of the filters of a set block */
    const fm_variable *variable = find(r, symbols, node->name, &where);
    node->up = symbols->function->depth - where->function->depth;
    node->slot = variable->load.slot;
    if (node->kind == FM_NODE_NAME) {
        int bytes = node->name->bytes < 200 ? (int)node->name->bytes : 200;
        node->value = fm_undefined(r->run, "'%.*s' is undefined", bytes, node->name->data);
    }
}

static int place_items(fm_resolver *r, fm_symbols *symbols, fm_node *node, size_t first, size_t step) {
    int depth = 0;
    for (size_t i = first; i < node->n; i += step) depth = deeper(depth, place(r, symbols, node->items[i]));
    return depth;
}

/* The scope that symbols became, when all in it has its place. */
static fm_scope *finish(fm_resolver *r, fm_symbols *symbols) {
    fm_scope *scope = fm_take_zeroed(r->run, sizeof *scope);
    scope->loads = fm_take(r->run, symbols->n * sizeof *scope->loads);
    for (size_t i = 0; i < symbols->n; i++) {
        if (!symbols->variables[i].parameter) scope->loads[scope->n_loads++] = symbols->variables[i].load;
    }
    scope->slots = fm_take(r->run, symbols->n * sizeof *scope->slots);
    scope->n_slots = symbols->n;
    for (size_t i = 0; i < symbols->n; i++) scope->slots[i] = symbols->variables[i].load.slot;
    scope->frame_slots = symbols->function->n;
    return scope;
}

static int place_for(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    fm_function_scope *function = node->flag ? new_function(r, symbols->function) : symbols->function;
    fm_symbols *body = inner(r, symbols, function), *other = inner(r, symbols, function), *test = inner(r, symbols, function);
    uint32_t loop = 0;
    if (node->flag || node->caller) loop = declare_special(r, body, "loop");
    visit_target(r, body, node->a, true);
    visit_target(r, test, node->a, true);
    visit_items(r, body, node->body);
    if (node->other) visit_items(r, other, node->other);
    visit(r, test, node->c);
    int depth = place(r, symbols, node->b);
    place(r, body, node->a);
    depth = deeper(depth, place(r, test, node->c));
    depth = deeper(depth, place_items(r, body, node->body, 0, 1) + 1);
    if (node->other) depth = deeper(depth, place_items(r, other, node->other, 0, 1) + 1);
    fm_scope *scope = finish(r, body);
    scope->loop = loop;
    node->body->scope = scope;
    node->scope = finish(r, test);
    if (node->other) node->other->scope = finish(r, other);
    scope->frame_slots = function->n; /* with those of the else */
    return depth;
}

static void place_macro(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    fm_symbols *macro = inner(r, symbols, new_function(r, symbols->function));
    uint32_t *parameters = fm_take(r->run, node->n_names * sizeof *parameters), extra[3] = {0};
    for (size_t i = 0; i < node->n_names; i++) parameters[i] = declare(r, macro, node->names[i]);
    if (node->caller) extra[0] = declare_special(r, macro, "caller");
    if (node->varargs) extra[1] = declare_special(r, macro, "varargs");
    if (node->kwargs) extra[2] = declare_special(r, macro, "kwargs");
    visit_items(r, macro, node);
    visit_items(r, macro, node->body);
    int depth = place_items(r, macro, node, 0, 1);
    node->body->depth = 2 + deeper(depth, place_items(r, macro, node->body, 0, 1));
    fm_scope *scope = finish(r, macro);
    scope->parameters = parameters;
    scope->caller = extra[0];
    scope->varargs = extra[1];
    scope->kwargs = extra[2];
    node->body->scope = scope;
}

/* A block of a scope of its own in the same function: what is in `body`, with `filters` after it. */
static int place_block(fm_resolver *r, fm_symbols *symbols, fm_node *body, fm_node *filters) {
    fm_symbols *block = inner(r, symbols, symbols->function);
    visit_items(r, block, body);
    visit(r, block, filters);
    int depth = deeper(place_items(r, block, body, 0, 1) + 1, place(r, block, filters));
    body->scope = finish(r, block);
    return depth;
}

static int place_with(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    fm_symbols *with = inner(r, symbols, symbols->function);
    for (size_t i = 0; i < node->n; i += 2) visit_target(r, with, node->items[i], true);
    visit_items(r, with, node->body);
    place_items(r, with, node, 0, 2);
    int depth = deeper(place_items(r, symbols, node, 1, 2), place_items(r, with, node->body, 0, 1) + 1);
    node->body->scope = finish(r, with);
    return depth;
}

static int place_parts(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    int depth = deeper(place(r, symbols, node->a), deeper(place(r, symbols, node->b), place(r, symbols, node->c)));
    depth = deeper(depth, place_items(r, symbols, node, 0, 1));
    for (size_t i = 0; i < node->n_names; i++) depth = deeper(depth, place(r, symbols, node->named[i]));
    return deeper(depth, deeper(place(r, symbols, node->star), place(r, symbols, node->star_star)));
}

static int place(fm_resolver *r, fm_symbols *symbols, fm_node *node) {
    int depth = 0;
    if (!node) return 0;
    r->run->line = node->line;
    fm_charge(r->run, 0);
    switch (node->kind) {
    case FM_NODE_NAME:
    case FM_NODE_MEMBER: place_name(r, symbols, node); break;
    case FM_NODE_FOR: depth = place_for(r, symbols, node); break;
    case FM_NODE_SET_BLOCK:
        depth = place_block(r, symbols, node->body, node->b);
        place(r, symbols, node->a);
        break;
    case FM_NODE_MACRO:
        place_macro(r, symbols, node);
        place_name(r, symbols, node);
        break;
    case FM_NODE_CALL_BLOCK:
        depth = place(r, symbols, node->a);
        place_macro(r, symbols, node->b);
        break;
    case FM_NODE_FILTER_BLOCK: depth = place_block(r, symbols, node->body, node->a); break;
    case FM_NODE_WITH: depth = place_with(r, symbols, node); break;
    default: depth = place_parts(r, symbols, node);
    }
    node->depth = depth + 1;
    return node->depth;
}

void fm_resolve(fm_run *run, fm_tree *tree) {
    fm_resolver r = {.run = run, .tree = tree, .numbers = fm_dict_new(run)};
    fm_symbols *root = inner(&r, NULL, new_function(&r, NULL));
    visit_items(&r, root, tree->body);
    tree->body->depth = place_items(&r, root, tree->body, 0, 1) + 1;
    tree->body->scope = finish(&r, root);
}
