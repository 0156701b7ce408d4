//! Texts that are small to write and large to read: each is read or refused
//! in bounded time, memory and stack.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by unwrapping")]

mod common;

use std::fmt::Write;
use std::time::{Duration, Instant};

use blixt_gateway::Manifests;

/// Generous: this is a debug build on a busy machine. A bomb that goes off
/// takes hours.
const LONG: Duration = Duration::from_secs(30);

/// Reads it on a stack of the usual size, and returns the refusals.
fn refusals_of(text: String) -> Vec<String> {
    let read = move || {
        let start = Instant::now();
        let update = common::read(&mut Manifests::default(), "bomb.yaml", text);
        let spent = start.elapsed();
        assert!(spent < LONG, "{spent:?}");
        update.refusals.iter().map(ToString::to_string).collect()
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap();
    thread.join().unwrap_or_else(|_| panic!("it went off"))
}

fn refused_as_a_whole(text: String) {
    let refusals = refusals_of(text);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals.iter().all(|refusal| refusal.starts_with("bomb.yaml")), "{refusals:?}");
}

/// `a` is ten texts, `b` ten times `a`, and so on.
fn laughs(of: impl Fn(char) -> String) -> String {
    let mut text = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, before) in ('b'..='j').zip('a'..) {
        writeln!(text, "{name}: &{name} {}", of(before)).unwrap();
    }
    text
}

#[test]
fn aliases_of_aliases() {
    let ten = |name: char| format!("[{}]", vec![format!("*{name}"); 10].join(", "));
    refused_as_a_whole(laughs(ten));
}

#[test]
fn aliases_in_merged_keys() {
    let mut text = String::from("a: &a {k0: x, k1: x, k2: x, k3: x}\n");
    for (name, before) in ('b'..='p').zip('a'..) {
        let all = vec![format!("*{before}"); 10].join(", ");
        writeln!(text, "{name}: &{name} {{<<: [{all}], in: {{<<: [{all}]}}}}").unwrap();
    }
    refused_as_a_whole(text);
}

#[test]
fn an_alias_of_itself() {
    refused_as_a_whole("a: &a [*a]\n".to_owned());
    refused_as_a_whole("a: &a {b: *a}\n".to_owned());
}

#[test]
fn many_aliases_of_one_large_value() {
    let list = vec!["x"; 10_000].join(", ");
    let aliases = vec!["*a"; 10_000].join(", ");
    refused_as_a_whole(format!("a: &a [{list}]\nb: [{aliases}]\n"));
}

#[test]
fn depth() {
    refused_as_a_whole("[".repeat(200_000));
    refused_as_a_whole("{a: ".repeat(200_000));
    refused_as_a_whole("- ".repeat(50_000));
    refused_as_a_whole("? ".repeat(50_000));
    refused_as_a_whole((0..2_000).fold(String::new(), |text, i| text + &" ".repeat(i) + "a:\n"));
    refused_as_a_whole(
        (0..500)
            .fold(String::new(), |text, i| text + &format!("a{i}: &a{i}\n") + &" ".repeat(i + 1)),
    );
}

#[test]
fn width() {
    // A file without a document is no refusal, so these have one each.
    refused_as_a_whole(format!("a: {}\n", "x".repeat(4 << 20)));
    refused_as_a_whole(format!("{}: a\n", "x".repeat(1 << 20)));
    refused_as_a_whole(format!("a: \"{}\"\n", "\\u00e4".repeat(1 << 20)));
    refused_as_a_whole("a: 1\n".repeat(100_000));
    assert_eq!(refusals_of("---\n".repeat(50_000)).len(), 0);
    assert_eq!(refusals_of("---\na\n".repeat(50_000)).len(), 50_000);
    refused_as_a_whole("---\na\n".repeat(150_000));
    refused_as_a_whole(format!("a: {}\n", "9".repeat(1 << 20)));
    refused_as_a_whole(format!("a: 1e{}\n", "9".repeat(1 << 20)));
}
