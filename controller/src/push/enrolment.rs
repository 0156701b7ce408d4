//! Whose token it is: asked of the API server, or of a test.

use blixt_api::sync::AUDIENCE;
use blixt_scrape::Review;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::PostParams;
use kube::{Api, Client};

/// The service account of agents, in the controller's namespace.
const AGENT: &str = "blixt-agent";

/// Where the API server says which node a pod's token belongs to (Kubernetes,
/// `ServiceAccountTokenPodNodeInfo`).
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It is no agent's.
    #[error("{0}")]
    Refused(String),
    /// Nobody can say.
    #[error("the API server can't be asked about the token: {0}")]
    Unavailable(String),
}

/// Says whose token it is, of agents and of those who scrape metrics.
#[tonic::async_trait]
pub trait Reviewer: Review {
    /// The node whose agent has this token.
    async fn node_of(&self, token: &str) -> Result<String, ReviewError>;
}

/// Asks the API server.
#[derive(Clone)]
pub struct TokenReviews {
    pub(super) tokens: Api<TokenReview>,
    pub(super) accesses: Api<SubjectAccessReview>,
    user: String,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("user", &self.user).finish_non_exhaustive()
    }
}

impl TokenReviews {
    /// For agents in a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{AGENT}");
        Self { tokens: Api::all(client.clone()), accesses: Api::all(client), user }
    }
}

#[tonic::async_trait]
impl Reviewer for TokenReviews {
    async fn node_of(&self, token: &str) -> Result<String, ReviewError> {
        let spec =
            TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviewed = self.tokens.create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|error| ReviewError::Unavailable(error.to_string()))?;
        judge(&reviewed, &self.user).map_err(ReviewError::Refused)
    }
}

/// What the API server's answer means.
fn judge(review: &TokenReview, user: &str) -> Result<String, String> {
    let status = review.status.as_ref().ok_or("the API server says nothing about the token")?;
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it is expired, or not for this cluster");
        return Err(format!("the token is not valid: {why}"));
    }
    // One that does not know of audiences would take any token.
    let audiences = status.audiences.iter().flatten();
    if !audiences.into_iter().any(|audience| audience == AUDIENCE) {
        return Err(format!("the token is not for the audience {AUDIENCE}"));
    }
    let no_user = UserInfo::default();
    let found = status.user.as_ref().unwrap_or(&no_user);
    let name = found.username.as_deref().unwrap_or_default();
    if name != user {
        return Err(format!("the token is that of {name:?}, and agents are {user:?}"));
    }
    let node = found.extra.as_ref().and_then(|extra| extra.get(NODE)?.first());
    node.filter(|node| !node.is_empty()).cloned().ok_or_else(|| {
        format!("the token names no node ({NODE}): it has to be a projected one, of a pod")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const USER: &str = "system:serviceaccount:blixt-system:blixt-agent";

    fn judged(change: impl FnOnce(&mut Value)) -> Result<String, String> {
        let mut review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {},
            "status": {
                "authenticated": true,
                "audiences": ["blixt-controller"],
                "user": {"username": USER, "extra": {NODE: ["node-1"]}},
            },
        });
        change(&mut review["status"]);
        judge(&serde_json::from_value(review).unwrap(), USER)
    }

    #[test]
    fn a_token_of_an_agents_pod_names_its_node() {
        assert_eq!(judged(|_| ()).as_deref(), Ok("node-1"));
    }

    #[test]
    fn any_other_token_is_refused_with_a_reason() {
        let other = "system:serviceaccount:default:blixt-agent";
        for (change, why) in [
            (json!({"authenticated": false, "error": "expired"}), "not valid: expired"),
            (json!({"authenticated": null}), "it is expired, or not for this cluster"),
            (json!({"audiences": null}), "not for the audience blixt-controller"),
            (json!({"audiences": ["https://kubernetes.default.svc"]}), "not for the audience"),
            (json!({"user": null}), "that of \"\""),
            (json!({"user": {"username": other}}), "that of \"system:serviceaccount:default"),
            (json!({"user": {"username": USER}}), "names no node"),
            (json!({"user": {"username": USER, "extra": {NODE: []}}}), "names no node"),
        ] {
            let refused = judged(|status| {
                let change = change.as_object().unwrap().clone();
                status.as_object_mut().unwrap().extend(change);
            });
            let refused = refused.unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
