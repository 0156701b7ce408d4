//! Who may read metrics: asked of the API server, for this replica's own and,
//! over their connections, for agents.

use blixt_api::sync::v1alpha1 as wire;
use blixt_scrape::{Review, Unavailable, Verdict};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use tonic::Status;

use super::enrolment::TokenReviews;

impl Review for TokenReviews {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        self.may_scrape(token).boxed()
    }
}

impl TokenReviews {
    async fn may_scrape(&self, token: &str) -> Result<Verdict, Unavailable> {
        // With no audience it is the API server's: of such tokens are those of
        // every pod.
        let spec = TokenReviewSpec { audiences: None, token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviewed = self.tokens.create(&PostParams::default(), &review).await;
        let user = match owner(&reviewed.map_err(unavailable)?) {
            Ok(user) => user,
            Err(why) => return Ok(Verdict::NotAuthenticated(why)),
        };
        let reviewed = self.accesses.create(&PostParams::default(), &access(&user)).await;
        Ok(judge(&reviewed.map_err(unavailable)?, &user))
    }
}

fn unavailable(error: kube::Error) -> Unavailable {
    Unavailable(format!("the API server can't be asked about the token: {error}"))
}

/// Whose token it is.
fn owner(review: &TokenReview) -> Result<UserInfo, String> {
    let status = review.status.clone().unwrap_or_default();
    if status.authenticated != Some(true) {
        let why = status.error.as_deref();
        let why = why.unwrap_or("it is expired, for another audience, or not of this cluster");
        return Err(format!("the token is not valid: {why}"));
    }
    status.user.ok_or_else(|| "the token is not valid: it is nobody's".to_owned())
}

/// What is asked of its owner.
fn access(user: &UserInfo) -> SubjectAccessReview {
    let metrics =
        NonResourceAttributes { path: Some("/metrics".to_owned()), verb: Some("get".to_owned()) };
    let spec = SubjectAccessReviewSpec {
        user: user.username.clone(),
        groups: user.groups.clone(),
        uid: user.uid.clone(),
        extra: user.extra.clone(),
        non_resource_attributes: Some(metrics),
        resource_attributes: None,
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

fn judge(review: &SubjectAccessReview, user: &UserInfo) -> Verdict {
    let status = review.status.clone().unwrap_or_default();
    if status.allowed && status.denied != Some(true) {
        return Verdict::Allowed;
    }
    let name = user.username.as_deref().unwrap_or_default();
    Verdict::NotAllowed(format!(
        "{name} may not get /metrics: bind it to the ClusterRole blixt-metrics-reader"
    ))
}

/// What an agent is answered.
pub(super) fn answer(
    verdict: Result<Verdict, Unavailable>,
) -> Result<wire::ReviewResponse, Status> {
    let (verdict, reason) = match verdict {
        Ok(Verdict::Allowed) => (wire::Verdict::Allowed, String::new()),
        Ok(Verdict::NotAuthenticated(why)) => (wire::Verdict::NotAuthenticated, why),
        Ok(Verdict::NotAllowed(why)) => (wire::Verdict::NotAllowed, why),
        Err(Unavailable(why)) => return Err(Status::unavailable(why)),
    };
    Ok(wire::ReviewResponse { verdict: verdict.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const USER: &str = "system:serviceaccount:monitoring:prometheus";

    fn owned(status: Value) -> Result<UserInfo, String> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {},
            "status": status,
        });
        owner(&serde_json::from_value(review).unwrap())
    }

    #[test]
    fn its_owner_is_asked_about_with_all_that_is_known_of_it() {
        let user = json!({
            "username": USER, "uid": "1", "groups": ["system:serviceaccounts"],
            "extra": {"authentication.kubernetes.io/pod-name": ["prometheus-0"]},
        });
        let owner = owned(json!({"authenticated": true, "user": user})).unwrap();
        let mut expected = user;
        expected["user"] = expected.as_object_mut().unwrap().remove("username").unwrap();
        expected["nonResourceAttributes"] = json!({"path": "/metrics", "verb": "get"});
        assert_eq!(serde_json::to_value(access(&owner)).unwrap()["spec"], expected);
    }

    #[test]
    fn a_token_that_is_not_good_has_no_owner() {
        for (status, why) in [
            (json!(null), "it is expired"),
            (json!({"authenticated": false, "user": {"username": USER}}), "it is expired"),
            (json!({"user": {"username": USER}}), "it is expired"),
            (json!({"authenticated": false, "error": "because"}), "not valid: because"),
            (json!({"authenticated": true}), "it is nobody's"),
        ] {
            let refused = owned(status).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let user = UserInfo { username: Some(USER.to_owned()), ..UserInfo::default() };
        let judged = |status: Value| {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {}, "status": status,
            });
            judge(&serde_json::from_value(review).unwrap(), &user)
        };
        assert_eq!(judged(json!({"allowed": true})), Verdict::Allowed);
        let no =
            format!("{USER} may not get /metrics: bind it to the ClusterRole blixt-metrics-reader");
        for status in
            [json!(null), json!({"allowed": false}), json!({"allowed": true, "denied": true})]
        {
            assert_eq!(judged(status), Verdict::NotAllowed(no.clone()));
        }
    }
}
