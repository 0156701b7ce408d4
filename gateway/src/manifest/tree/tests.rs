//! What texts become, which lines are told, and what is bounded.

use super::*;

fn one(text: &str) -> Node {
    let mut nodes = parse(text.as_bytes()).unwrap();
    assert_eq!(nodes.len(), 1, "{text}");
    nodes.remove(0)
}

#[test]
fn lines_are_kept() {
    let node = one("# first\na: 1\nb:\n  - x\n  - c: y\n    d: z\n");
    let path = Path::of("b").index(1).key("d");
    assert_eq!(node.line_of(&path), 6);
    assert_eq!(node.line_of(&Path::of("b").index(1).key("missing")), 5);
    assert_eq!(node.line_of(&Path::root()), 2);
}

#[test]
fn empty_documents_are_left_out() {
    for text in ["", "# nothing\n", "---\n---\n# still nothing\n---\n", "null", "\u{feff}"] {
        assert_eq!(parse(text.as_bytes()).unwrap(), [], "{text:?}");
    }
    assert_eq!(parse(b"---\na: 1\n---\n---\nb: 2\n").unwrap().len(), 2);
}

#[test]
fn json_is_yaml() {
    let node = one("{\n\t\"a\": [1, 2.5, true, null, \"\\u00e4\\/\"],\n\t\"b\": {}\n}\n");
    assert_eq!(node.to_json(), serde_json::json!({"a": [1, 2.5, true, null, "ä/"], "b": {}}));
}

#[test]
fn scalars_are_those_of_yaml_1_2() {
    let node = one(
        "a: yes\nb: on\nc: 99999999999999999999\nd: .inf\ne: 0x10\nf: '1'\ng: ~\nh: -3\ni: 2.0",
    );
    assert_eq!(node.text("a"), Some("yes"));
    assert_eq!(node.text("b"), Some("on"));
    assert_eq!(node.text("d"), Some(".inf"));
    assert_eq!(node.get("e").unwrap().value, Value::Integer(16));
    assert_eq!(node.text("f"), Some("1"));
    assert_eq!(node.get("g").unwrap().value, Value::Null);
    assert_eq!(node.get("h").unwrap().value, Value::Integer(-3));
    assert_eq!(node.get("i").unwrap().value, Value::Float(2.0));
    assert!(node.to_json().get("c").unwrap().is_number());
}

#[test]
fn errors_name_the_line() {
    for (text, line, part) in [
        ("a: 1\nb: [1,\nc: 3\n", 2, "unclosed bracket"),
        ("a: 1\nb: c: d\n", 2, "not allowed in this context"),
        ("a: 1\n---\nb: 'x\n", 3, "unclosed quote"),
        ("a: *nowhere\n", 1, "unknown anchor"),
        ("a: !secret x\n", 1, "tag"),
    ] {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.line, Some(line), "{text}: {error:?}");
        assert!(error.reason.contains(part), "{text}: {error:?}");
        assert!(!error.reason.contains(" at line "), "{error:?}");
    }
    let error = parse(b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!((error.line, error.reason.contains("UTF-8")), (Some(2), true));
}

#[test]
fn what_a_text_may_ask_for_is_bounded() {
    let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert!(parse(nested(100).as_bytes()).unwrap_err().reason.contains("split it"));
    assert!(parse(nested(100_000).as_bytes()).unwrap_err().reason.contains("split it"));
    let wide = "- x\n".repeat(1000);
    assert!(parse_bounded(wide.as_bytes(), 1001).is_ok());
    let error = parse_bounded(wide.as_bytes(), 1000).unwrap_err();
    assert!(error.reason.contains("1000 values"), "{error:?}");

    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, before) in [('b', 'a'), ('c', 'b'), ('d', 'c'), ('e', 'd'), ('f', 'e')] {
        let aliases = vec![format!("*{before}"); 10].join(", ");
        bomb.push_str(&format!("{name}: &{name} [{aliases}]\n"));
    }
    assert!(parse(bomb.as_bytes()).unwrap_err().reason.starts_with("repeats more than 100000"));
    let itself = parse(b"a: &a [*a]\n").unwrap_err();
    assert!(itself.reason.contains("within what it stands for"), "{itself:?}");
}

#[test]
fn aliases_work() {
    let node = one("a: &x\n  b: 1\nc: *x\n");
    assert_eq!(node.to_json(), serde_json::json!({"a": {"b": 1}, "c": {"b": 1}}));
}

#[test]
fn repeated_keys_are_found() {
    let node = one("a: 1\nb:\n  - c: 1\n    c: 2\na: 3\n");
    let found: Vec<_> = node.repeated_keys().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "b[0].c is given twice, on lines 3 and 4: keep one",
            "a is given twice, on lines 1 and 5: keep one"
        ]
    );
}
