//! HTTPRoutes, of which only those can be honoured that send everything to one
//! place: nobody reads the HTTP that they speak of.

use crate::apis::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesMatches,
    HttpRouteRulesMatchesPathType, HttpRouteSpec,
};

/// Where it sends everything: of several rules that match all, the first one
/// does (Gateway API, "HTTPRouteRule").
pub(super) fn backends(spec: &HttpRouteSpec) -> Vec<HttpRouteRulesBackendRefs> {
    let first = spec.rules.iter().flatten().next();
    first.and_then(|rule| rule.backend_refs.clone()).unwrap_or_default()
}

/// The first thing in it that needs a look into HTTP.
pub(super) fn unsupported(spec: &HttpRouteSpec) -> Option<String> {
    let mut rules = spec.rules.iter().flatten().enumerate();
    rules.find_map(|(index, rule)| Some(format!("rules[{index}].{}", asks_for(rule)?)))
}

fn asks_for(rule: &HttpRouteRules) -> Option<&'static str> {
    let is_some = |list: bool, name| list.then_some(name);
    let mut backends = rule.backend_refs.iter().flatten();
    let mut matches = rule.matches.iter().flatten();
    is_some(rule.filters.iter().flatten().next().is_some(), "filters")
        .or(is_some(rule.timeouts.is_some(), "timeouts"))
        .or(is_some(
            backends.any(|backend| backend.filters.iter().flatten().next().is_some()),
            "backendRefs.filters",
        ))
        .or(is_some(matches.any(|one| !matches_all(one)), "matches"))
}

/// Whether it is for every request: a prefix of every path is, and that is the
/// default.
fn matches_all(one: &HttpRouteRulesMatches) -> bool {
    let path = one.path.as_ref();
    one.method.is_none()
        && one.headers.iter().flatten().next().is_none()
        && one.query_params.iter().flatten().next().is_none()
        && path.is_none_or(|path| {
            matches!(path.r#type, None | Some(HttpRouteRulesMatchesPathType::PathPrefix))
                && path.value.as_deref().is_none_or(|value| value == "/")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asked(rules: Value) -> Option<String> {
        unsupported(&serde_json::from_value(json!({"rules": rules})).unwrap())
    }

    #[test]
    fn who_sends_everything_to_one_place_can_be_honoured() {
        let all = json!({"path": {"type": "PathPrefix", "value": "/"}});
        for rules in [
            json!([]),
            json!([{"backendRefs": [{"name": "web", "port": 80}]}]),
            json!([{"matches": [all]}, {"matches": [{}], "filters": []}]),
        ] {
            assert_eq!(asked(rules.clone()), None, "{rules}");
        }
        for (rule, what) in [
            (json!({"matches": [all, {"path": {"type": "Exact", "value": "/"}}]}), "matches"),
            (json!({"matches": [{"path": {"value": "/api"}}]}), "matches"),
            (json!({"matches": [{"method": "GET"}]}), "matches"),
            (json!({"matches": [{"headers": [{"name": "a", "value": "b"}]}]}), "matches"),
            (json!({"matches": [{"queryParams": [{"name": "a", "value": "b"}]}]}), "matches"),
            (json!({"filters": [{"type": "RequestRedirect"}]}), "filters"),
            (json!({"timeouts": {"request": "1s"}}), "timeouts"),
            (
                json!({"backendRefs": [{"name": "web", "filters": [{"type": "CORS"}]}]}),
                "backendRefs.filters",
            ),
        ] {
            assert_eq!(asked(json!([{}, rule])), Some(format!("rules[1].{what}")));
        }
    }

    #[test]
    fn the_first_of_several_rules_has_the_traffic() {
        let spec =
            json!({"rules": [{"backendRefs": [{"name": "a"}]}, {"backendRefs": [{"name": "b"}]}]});
        let backends = backends(&serde_json::from_value(spec).unwrap());
        assert_eq!(backends.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
