/* template/library/tests.c: what stands behind `is`. See library.h. */
#include "template/library/inner.h"

#define TEST(name, condition)                                                                                                                                  \
    FM_CALLABLE(name) { return fm_bool(condition); }

static bool remainder_is(fm_run *run, fm_value self, fm_value by, int64_t remainder) {
    return fm_equal(run, fm_arithmetic(run, '%', self, by), fm_int(remainder));
}

static bool is_sequence(fm_value value) {
    return value.type == FM_UNDEFINED || value.type == FM_STRING || value.type == FM_LIST || value.type == FM_TUPLE || value.type == FM_DICT ||
           value.type == FM_RANGE;
}

static bool is_callable(fm_value value) { return value.type == FM_UNDEFINED || (value.type >= FM_METHOD && value.type <= FM_LOOP) || value.type == FM_JOINER; }

/* `from` to `to`: what fm_order_of may give. */
static bool compares(fm_run *run, fm_value a, fm_value b, const char *operator, int from, int to) {
    int order = fm_order_of(run, a, b, operator);
    return order >= from && order <= to;
}

/* Refuses, as a look-up in a dict does, what has no hash. */
static bool is_name(fm_run *run, fm_value value) {
    fm_dict_find(run, fm_dict_new(run), value);
    return value.type == FM_STRING;
}

TEST(test_odd, remainder_is(run, self, fm_int(2), 1))
TEST(test_even, remainder_is(run, self, fm_int(2), 0))
TEST(test_divisibleby, remainder_is(run, self, given[0], 0))
TEST(test_defined, self.type != FM_UNDEFINED)
TEST(test_undefined, self.type == FM_UNDEFINED)
TEST(test_filter, is_name(run, self) && fm_filter(self.text) != NULL)
TEST(test_test, is_name(run, self) && fm_test(self.text) != NULL)
TEST(test_none, self.type == FM_NONE)
TEST(test_boolean, self.type == FM_BOOL)
TEST(test_false, self.type == FM_BOOL && !self.truth)
TEST(test_true, self.type == FM_BOOL && self.truth)
TEST(test_integer, self.type == FM_INT)
TEST(test_float, self.type == FM_FLOAT)
TEST(test_lower, fm_text_all(fm_str(run, self), "islower"))
TEST(test_upper, fm_text_all(fm_str(run, self), "isupper"))
TEST(test_string, self.type == FM_STRING)
TEST(test_mapping, self.type == FM_DICT)
TEST(test_number, fm_is_number(self))
TEST(test_sequence, is_sequence(self))
TEST(test_sameas, fm_same(self, given[0]))
TEST(test_iterable, fm_is_iterable(self))
TEST(test_callable, is_callable(self))
TEST(test_escaped, self.type == FM_STRING && self.text->markup)
TEST(test_in, fm_contains(run, given[0], self))
TEST(test_eq, fm_equal(run, self, given[0]))
TEST(test_ne, !fm_equal(run, self, given[0]))
TEST(test_gt, compares(run, self, given[0], ">", 1, 1))
TEST(test_ge, compares(run, self, given[0], ">=", 0, 1))
TEST(test_lt, compares(run, self, given[0], "<", -1, -1))
TEST(test_le, compares(run, self, given[0], "<=", -1, 0))

static const fm_function tests[] = {
    {"defined", test_defined, ""},
    {"string", test_string, ""},
    {"none", test_none, ""},
    {"mapping", test_mapping, ""},
    {"iterable", test_iterable, ""},
    {"sequence", test_sequence, ""},
    {"undefined", test_undefined, ""},
    {"true", test_true, ""},
    {"false", test_false, ""},
    {"boolean", test_boolean, ""},
    {"number", test_number, ""},
    {"integer", test_integer, ""},
    {"float", test_float, ""},
    {"odd", test_odd, ""},
    {"even", test_even, ""},
    {"divisibleby", test_divisibleby, "num"},
    {"lower", test_lower, ""},
    {"upper", test_upper, ""},
    {"callable", test_callable, ""},
    {"escaped", test_escaped, ""},
    {"filter", test_filter, ""},
    {"test", test_test, ""},
    {"sameas", test_sameas, "other"},
    {"in", test_in, "seq"},
    {"==", test_eq, "/b"},
    {"eq", test_eq, "/b"},
    {"equalto", test_eq, "/b"},
    {"!=", test_ne, "/b"},
    {"ne", test_ne, "/b"},
    {">", test_gt, "/b"},
    {"gt", test_gt, "/b"},
    {"greaterthan", test_gt, "/b"},
    {">=", test_ge, "/b"},
    {"ge", test_ge, "/b"},
    {"<", test_lt, "/b"},
    {"lt", test_lt, "/b"},
    {"lessthan", test_lt, "/b"},
    {"<=", test_le, "/b"},
    {"le", test_le, "/b"},
};

const fm_function *fm_test(const fm_text *name) { return fm_find_function(tests, sizeof tests / sizeof *tests, name); }
