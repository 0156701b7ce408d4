//! The rules of the stand-in: what stays, what goes, who wins.

use super::*;
use crate::object::Kind;

const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: blixt}
spec: {controllerName: gateway.networking.k8s.io/blixt}
";

fn gateway(name: &str, port: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
spec:
  gatewayClassName: blixt
  listeners:
  - name: tcp
    protocol: TCP
    port: {port}
"
    )
}

/// Files by name; a text that begins with "!" can't be read.
fn update(manifests: &mut Manifests, files: &[(&str, &str)]) -> Update {
    let files = files.iter().map(|(name, text)| {
        let contents = match text.strip_prefix('!') {
            Some(why) => Err(why.to_owned()),
            None => Ok(text.as_bytes().to_vec()),
        };
        ((*name).to_owned(), contents)
    });
    manifests.update(&files.collect())
}

fn refusals(update: &Update) -> Vec<String> {
    update.refusals.iter().map(ToString::to_string).collect()
}

fn names(manifests: &Manifests) -> Vec<String> {
    manifests.objects().map(|object| object.key().to_string()).collect()
}

fn port_of(manifests: &Manifests) -> i32 {
    manifests
        .objects()
        .find_map(|object| match object {
            Object::Gateway(gateway) => Some(gateway.spec.listeners[0].port),
            _ => None,
        })
        .unwrap()
}

#[test]
fn files_make_objects_and_gone_files_take_them_away() {
    let mut manifests = Manifests::default();
    let first = update(&mut manifests, &[("a.yaml", CLASS), ("b.yaml", &gateway("web", "80"))]);
    assert!(first.changed && first.refusals.is_empty());
    assert_eq!(first.events.len(), 2);
    assert_eq!(names(&manifests), ["GatewayClass blixt", "Gateway default/web"]);

    let same = update(&mut manifests, &[("a.yaml", CLASS), ("b.yaml", &gateway("web", "80"))]);
    assert!(!same.changed && same.events.is_empty());

    // An object that moves to another file is the same object.
    let both = format!("{CLASS}---\n{}", gateway("web", "80"));
    assert!(!update(&mut manifests, &[("c.yaml", &both)]).changed);

    let gone = update(&mut manifests, &[("a.yaml", CLASS)]);
    let key = ObjectKey {
        kind: Kind::Gateway,
        namespace: Some("default".to_owned()),
        name: "web".to_owned(),
    };
    assert_eq!(gone.events, [Event::Delete(key)]);
    assert!(update(&mut manifests, &[]).changed);
    assert_eq!(names(&manifests), [""; 0]);
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_contents() {
    let mut manifests = Manifests::default();
    update(&mut manifests, &[("a.yaml", &gateway("web", "80"))]);
    for bad in ["a: [", "a: b: c", "\u{0}", "!permission denied"] {
        let after = update(&mut manifests, &[("a.yaml", bad)]);
        assert!(!after.changed, "{bad:?}");
        assert_eq!(after.refusals.len(), 1, "{bad:?}");
        let refusal = after.refusals[0].to_string();
        assert!(refusal.ends_with("(its last good contents stay in force)"), "{refusal}");
        assert_eq!(port_of(&manifests), 80);
    }
    let after = update(&mut manifests, &[("a.yaml", &gateway("web", "81"))]);
    assert!(after.changed && after.refusals.is_empty());
    assert_eq!(port_of(&manifests), 81);
}

#[test]
fn a_file_that_never_parsed_has_nothing_in_force() {
    let mut manifests = Manifests::default();
    let after = update(&mut manifests, &[("a.yaml", "kind: [\n"), ("b.yaml", "!no such device")]);
    assert_eq!(
        refusals(&after),
        [
            "a.yaml:1: is not YAML: unclosed bracket '[' (nothing of it is in force)",
            "b.yaml: can't be read: no such device (nothing of it is in force)"
        ]
    );
    assert!(!after.changed);
}

#[test]
fn a_bad_object_is_refused_alone_and_its_last_good_version_stays() {
    let mut manifests = Manifests::default();
    let good = format!("{}---\n{}", gateway("web", "80"), gateway("api", "90"));
    update(&mut manifests, &[("a.yaml", &good)]);

    let bad = format!("{}---\n{}", gateway("web", "65536"), gateway("api", "91"));
    let after = update(&mut manifests, &[("a.yaml", &bad)]);
    assert_eq!(
        refusals(&after),
        ["a.yaml:10: Gateway default/web: spec.listeners[0].port is 65536: use 1 to 65535 (its \
          last good version stays in force)"]
    );
    assert_eq!(after.events.len(), 1);
    assert_eq!(names(&manifests), ["Gateway default/api", "Gateway default/web"]);

    // It is told again as long as it is so.
    assert_eq!(update(&mut manifests, &[("a.yaml", &bad)]).refusals, after.refusals);

    // Without a last good version there is nothing to keep.
    let mut fresh = Manifests::default();
    let first = update(&mut fresh, &[("a.yaml", &bad)]);
    assert!(first.refusals[0].to_string().ends_with("(nothing of it is in force)"));
    assert_eq!(names(&fresh), ["Gateway default/api"]);
}

#[test]
fn the_first_of_two_counts_by_file_and_line() {
    let mut manifests = Manifests::default();
    let twice = format!("{}---\n{}", gateway("web", "80"), gateway("web", "81"));
    let after = update(&mut manifests, &[("b.yaml", &twice), ("c.yaml", &gateway("web", "82"))]);
    assert_eq!(
        refusals(&after),
        [
            "b.yaml:12: Gateway default/web: is given twice; the one in b.yaml:1 counts, so remove \
             one (its last good version stays in force)",
            "c.yaml:1: Gateway default/web: is given twice; the one in b.yaml:1 counts, so remove \
             one (its last good version stays in force)"
        ]
    );
    assert_eq!(port_of(&manifests), 80);

    // A file that sorts before takes over.
    let first = gateway("web", "79");
    let after = update(&mut manifests, &[("a.yaml", &first), ("b.yaml", &twice)]);
    assert_eq!(after.refusals.len(), 2);
    assert_eq!(port_of(&manifests), 79);

    // The first one counts even if it is bad: the second is no fallback.
    let mut manifests = Manifests::default();
    let (bad, good) = (gateway("web", "0"), gateway("web", "80"));
    let after = update(&mut manifests, &[("a.yaml", &bad), ("b.yaml", &good)]);
    assert_eq!(after.refusals.len(), 2);
    assert!(!after.refusals[1].last_good_stays);
    assert_eq!(names(&manifests), [""; 0]);
}

#[test]
fn the_generation_counts_changes_of_the_spec() {
    let mut manifests = Manifests::default();
    let generation =
        |manifests: &Manifests| manifests.objects().next().unwrap().metadata().generation.unwrap();
    update(&mut manifests, &[("a.yaml", &gateway("web", "80"))]);
    assert_eq!(generation(&manifests), 1);
    update(&mut manifests, &[("a.yaml", &format!("# a comment\n{}", gateway("web", "80")))]);
    assert_eq!(generation(&manifests), 1);
    // A label changes the object, but not what it asks for.
    let labelled = gateway("web", "80").replace("  name: web\n", "  name: web\n  labels: {a: b}\n");
    assert!(update(&mut manifests, &[("a.yaml", &labelled)]).changed);
    assert_eq!(generation(&manifests), 1);
    update(&mut manifests, &[("a.yaml", &gateway("web", "81"))]);
    assert_eq!(generation(&manifests), 2);
    // Neither does what a server once said about it.
    let dumped = gateway("web", "81").replace("  name: web\n", "  name: web\n  generation: 99\n");
    update(&mut manifests, &[("a.yaml", &dumped)]);
    assert_eq!(generation(&manifests), 2);
}

#[test]
fn immutable_fields_can_not_change() {
    let mut manifests = Manifests::default();
    update(&mut manifests, &[("a.yaml", CLASS)]);
    let other = CLASS.replace("gateway.networking.k8s.io/blixt}", "example.com/other}");
    let after = update(&mut manifests, &[("a.yaml", &other)]);
    assert!(!after.changed);
    assert_eq!(
        refusals(&after),
        ["a.yaml:4: GatewayClass blixt: spec.controllerName can't change from \
          \"gateway.networking.k8s.io/blixt\" to \"example.com/other\": give the new object \
          another name, or remove this one first (its last good version stays in force)"]
    );
    // Gone and come back is not a change.
    update(&mut manifests, &[]);
    assert!(update(&mut manifests, &[("a.yaml", &other)]).refusals.is_empty());

    let slice = |kind: &str, address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a}}\n\
             addressType: {kind}\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
        )
    };
    update(&mut manifests, &[("a.yaml", &slice("IPv4", "10.0.0.1"))]);
    let after = update(&mut manifests, &[("a.yaml", &slice("IPv6", "2001:db8::1"))]);
    assert!(refusals(&after)[0].starts_with("a.yaml:4: EndpointSlice default/a: addressType"));
    assert!(!after.changed);
}

#[test]
fn unknown_kinds_do_not_disturb_the_rest_of_the_file() {
    let mut manifests = Manifests::default();
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\n---\n{CLASS}");
    let after = update(&mut manifests, &[("a.yaml", &text)]);
    assert_eq!(names(&manifests), ["GatewayClass blixt"]);
    let refusal = &refusals(&after)[0];
    assert!(refusal.starts_with("a.yaml:1: ConfigMap a: unknown kind: v1 ConfigMap."), "{refusal}");
}

#[test]
fn a_version_that_is_not_served_still_is_that_object() {
    let mut manifests = Manifests::default();
    let old = gateway("web", "80");
    update(&mut manifests, &[("a.yaml", &old)]);
    let after = update(&mut manifests, &[("a.yaml", &old.replace("/v1\n", "/v1alpha2\n"))]);
    assert!(!after.changed);
    assert!(after.refusals[0].last_good_stays);
}

#[test]
fn many_problems_are_counted() {
    let listeners: String =
        (0..30).map(|i| format!("  - {{name: l{i}, protocol: TCP, port: 0}}\n")).collect();
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\nspec:\n  \
         gatewayClassName: blixt\n  listeners:\n{listeners}"
    );
    let after = update(&mut Manifests::default(), &[("a.yaml", &text)]);
    assert_eq!(after.refusals.len(), MAX_PROBLEMS);
    assert!(after.refusals[9].reason.ends_with("; and 20 more"), "{:?}", after.refusals[9]);
    assert_eq!(after.refusals[3].line, Some(10));
}

#[test]
fn windows_line_ends_and_byte_order_marks_are_fine() {
    let mut manifests = Manifests::default();
    let text = format!("\u{feff}{}", CLASS.replace('\n', "\r\n"));
    assert!(update(&mut manifests, &[("a.yaml", &text)]).refusals.is_empty());
    assert_eq!(names(&manifests), ["GatewayClass blixt"]);
}

#[test]
fn what_was_wrong_with_contents_that_are_gone_is_not_told() {
    let mut manifests = Manifests::default();
    update(&mut manifests, &[("a.yaml", &gateway("web", "0"))]);
    let after = update(&mut manifests, &[("a.yaml", "a: [")]);
    assert_eq!(after.refusals.len(), 1);
    assert_eq!(after.refusals[0].object, None);
}

#[test]
fn an_empty_namespace_is_the_default_one() {
    let mut manifests = Manifests::default();
    let text =
        |port| gateway("web", port).replace("  name: web\n", "  name: web\n  namespace: \"\"\n");
    assert!(update(&mut manifests, &[("a.yaml", &text("80"))]).refusals.is_empty());
    assert!(!update(&mut manifests, &[("a.yaml", &gateway("web", "80"))]).changed);
    let refused = update(&mut manifests, &[("a.yaml", &text("0"))]);
    assert!(refused.refusals[0].last_good_stays);
    let gone = update(&mut manifests, &[]);
    let [Event::Delete(key)] = gone.events.as_slice() else { panic!("{gone:?}") };
    assert_eq!(key.to_string(), "Gateway default/web");
}

#[test]
fn a_file_that_is_emptied_keeps_what_it_had() {
    let mut manifests = Manifests::default();
    assert!(update(&mut manifests, &[("a.yaml", "# nothing yet\n")]).refusals.is_empty());
    update(&mut manifests, &[("a.yaml", CLASS)]);
    for emptied in ["", "\n---\n", "# soon\n"] {
        let after = update(&mut manifests, &[("a.yaml", emptied)]);
        assert!(!after.changed);
        assert_eq!(
            refusals(&after),
            ["a.yaml: is empty now: remove the file if its objects are to go (its last good \
              contents stay in force)"]
        );
    }
    assert!(update(&mut manifests, &[("a.yaml", CLASS)]).refusals.is_empty());
    assert!(update(&mut manifests, &[]).changed);
    assert_eq!(names(&manifests), [""; 0]);
}

#[test]
fn what_a_file_says_does_not_reach_the_terminal_as_it_is() {
    let text = "apiVersion: v1\nkind: \"\\e[31mred\\nnew \\u202e\"\nmetadata: {name: a}\n";
    let after = update(&mut Manifests::default(), &[("a\n.yaml", text)]);
    let told = &refusals(&after)[0];
    assert!(told.starts_with(r"a\n.yaml:1: \u{1b}[31mred\nnew \u{202e} a: unknown kind"), "{told}");
    assert!(!told.chars().any(char::is_control), "{told}");
}
