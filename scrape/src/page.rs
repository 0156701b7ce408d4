//! What is answered: the page, or why there is none.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::decisions::{Decisions, Verdict};

/// The page, made when it is asked for.
pub type Page = Arc<dyn Fn() -> Response + Send + Sync>;

/// What the server looks at.
#[derive(Clone)]
struct Shown {
    decisions: Arc<Decisions>,
    page: Page,
}

/// /metrics and nothing else.
pub(crate) fn router(decisions: Arc<Decisions>, page: Page) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Shown { decisions, page })
}

async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let token = match bearer(&headers) {
        Ok(token) => token,
        Err(why) => return unauthorized(why),
    };
    match shown.decisions.of(token).await {
        Ok(Verdict::Allowed) => (shown.page)(),
        Ok(Verdict::NotAuthenticated(why)) => unauthorized(&why),
        Ok(Verdict::NotAllowed(why)) => refused(StatusCode::FORBIDDEN, &why),
        Err(why) => refused(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
    }
}

fn unauthorized(why: &str) -> Response {
    ([(WWW_AUTHENTICATE, "Bearer")], refused(StatusCode::UNAUTHORIZED, why)).into_response()
}

fn refused(status: StatusCode, why: &str) -> Response {
    const TYPE: &str = "text/plain; charset=utf-8";
    (status, [(CONTENT_TYPE, TYPE)], format!("{why}\n")).into_response()
}

/// The token that was brought along (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    const NONE: &str = "a token is needed: send \"Authorization: Bearer TOKEN\"";
    const BAD: &str = "the Authorization header can't be read: send \"Bearer TOKEN\" in it, once";
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let sent = match (sent.next(), sent.next()) {
        (Some(sent), None) => sent.to_str().map_err(|_| BAD)?,
        (Some(_), Some(_)) => return Err(BAD),
        (None, _) => return Err(NONE),
    };
    let (scheme, token) = sent.split_once(' ').ok_or(BAD)?;
    let token = token.trim_matches(' ');
    let is_token = !token.is_empty() && !token.contains([' ', '\t', ',']);
    if !scheme.eq_ignore_ascii_case("bearer") || !is_token { Err(BAD) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn sent(values: &[&[u8]]) -> HeaderMap {
        let value = |value: &&[u8]| Some((AUTHORIZATION, HeaderValue::from_bytes(value).ok()?));
        values.iter().filter_map(value).fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    #[test]
    fn tokens_are_read_and_nothing_else() {
        for good in ["Bearer a.b-c", "bearer a.b-c", "BEARER  a.b-c "] {
            assert_eq!(bearer(&sent(&[good.as_bytes()])), Ok("a.b-c"), "{good}");
        }
        assert!(bearer(&sent(&[])).unwrap_err().starts_with("a token is needed"));
        for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "a.b-c", "Bearer a b", "Bearer a,b"] {
            let why = bearer(&sent(&[bad.as_bytes()])).unwrap_err();
            assert!(why.starts_with("the Authorization header can't be read"), "{bad}: {why}");
        }
        assert!(bearer(&sent(&[b"Bearer a", b"Bearer b"])).unwrap_err().ends_with("once"));
        assert!(bearer(&sent(&[b"Bearer \xff"])).is_err());
    }

    proptest! {
        /// No bytes make it panic, and what it takes for a token was sent as one.
        #[test]
        fn any_bytes_are_read(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
            prefix in prop::option::of("(?i)bearer *"),
        ) {
            let prefix = prefix.unwrap_or_default().into_bytes();
            let values: Vec<_> =
                values.iter().map(|value| [&prefix[..], value].concat()).collect();
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let headers = sent(&values);
            if let Ok(token) = bearer(&headers) {
                prop_assert_eq!(headers.len(), 1);
                prop_assert!(!token.is_empty());
                let value = headers[AUTHORIZATION].to_str().unwrap();
                prop_assert!(value[..6].eq_ignore_ascii_case("bearer"));
                prop_assert_eq!(value[7..].trim_matches(' '), token);
            }
        }
    }
}
