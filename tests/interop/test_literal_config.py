from libradet.interop.literal_config import first_dict, iter_dicts, parse_literals


def test_assignments_are_parsed_and_not_executed():
    text = "a = dict(x=[1, (2, 3)], **b)\nc = {'d': a, 'e': -0.5}\nf = open('x')\nimport os\ng = 1 +"
    assert parse_literals(text) == {}
    values = parse_literals(text.rpartition("\n")[0])
    assert values == {"a": {"x": [1, [2, 3]]}, "c": {"d": {"x": [1, [2, 3]]}, "e": -0.5}, "f": None}
    assert list(iter_dicts(values, "x")) == [{"x": [1, [2, 3]]}] * 2
    assert first_dict(values, "d") == {"x": [1, [2, 3]]}
    assert first_dict(values, "nowhere") == {}
