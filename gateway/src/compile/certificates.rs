//! The certificates of listeners that end TLS: references to Secrets, resolved.

use blixt_model::{Certificate, CertificateId, ObjectName, Snapshot};

use super::grants::{Grants, Referrer};
use super::listeners::ends_tls;
use super::room::Room;
use crate::apis::{GatewayListeners, GatewayListenersTlsCertificateRefs as Reference};
use crate::certificate::Known;
use crate::index::Index;
use crate::status::reason;

/// What references may be resolved with.
pub(super) struct Secrets<'a> {
    pub(super) index: &'a Index,
    pub(super) grants: Grants<'a>,
    pub(super) room: Room,
}

/// The certificates of one listener.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// Those that can be used, in the order of the spec.
    pub(super) good: Vec<CertificateId>,
    /// What is wrong with the references: reason and message.
    pub(super) problem: Option<(&'static str, String)>,
    /// Whether some of them have no certificate.
    pub(super) lacks_some: bool,
}

impl Secrets<'_> {
    /// Those of a listener that ends TLS.
    pub(super) fn of(&self, listener: &GatewayListeners, owner: Referrer<'_>) -> Certificates {
        let mut found = Certificates::default();
        let mut problems = Vec::new();
        let mut references = references(listener).enumerate().peekable();
        if references.peek().is_none() {
            let message = "There is no certificate to end TLS with: set tls.certificateRefs.";
            found.problem = Some((reason::INVALID_CERTIFICATE_REF, message.to_owned()));
        }
        for (position, reference) in references {
            let (id, problem) = match self.certificate(reference, owner) {
                Ok((id, last)) => {
                    (Some(id), last.map(|why| (reason::INVALID_CERTIFICATE_REF, why)))
                }
                Err(problem) => (None, Some(problem)),
            };
            found.lacks_some |= id.is_none();
            found.good.extend(id.filter(|id| !found.good.contains(id)).cloned());
            let at = |(reason, why)| (reason, format!("certificateRefs[{position}] {why}"));
            problems.extend(problem.map(at));
        }
        let foreign = problems.iter().find(|(reason, _)| *reason == reason::REF_NOT_PERMITTED);
        if let Some(&(reason, _)) = foreign.or(problems.first()) {
            let texts: Vec<_> = problems.iter().map(|(_, text)| text.as_str()).collect();
            found.problem = Some((reason, format!("{}.", texts.join("; "))));
        }
        found
    }

    /// The certificate; with what is wrong, where it is the last good one.
    fn certificate(
        &self,
        reference: &Reference,
        owner: Referrer<'_>,
    ) -> Result<(&CertificateId, Option<String>), (&'static str, String)> {
        let invalid = |why| (reason::INVALID_CERTIFICATE_REF, why);
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if (group, kind) != ("", "Secret") {
            let group = if group.is_empty() { String::new() } else { format!(" of group {group}") };
            return Err(invalid(format!(
                "is of kind {kind}{group}: only a Secret can be a certificate"
            )));
        }
        let (namespace, name) = (namespace_of(reference, owner), reference.name.as_str());
        if !self.grants.permit(owner, "Secret", namespace, name) {
            let why = format!(
                "is Secret {namespace}/{name}, in another namespace: a ReferenceGrant in \
                 {namespace} must allow {}s of namespace {}",
                owner.kind, owner.namespace
            );
            return Err((reason::REF_NOT_PERMITTED, why));
        }
        let secret = ObjectName::new(namespace, name).ok();
        let is = |why: &str| format!("is Secret {namespace}/{name}, which {why}");
        if let Some(why) = secret.as_ref().and_then(|secret| self.room.refusal(secret)) {
            return Err(invalid(is(&why)));
        }
        match secret.and_then(|secret| self.index.secret(&secret)) {
            None => Err(invalid(is("does not exist"))),
            Some(Known { certificate: Some(good), fault: None }) => Ok((&good.id, None)),
            Some(Known { certificate: Some(last), fault: Some(why) }) => {
                Ok((&last.id, Some(is(why) + ", so the last good certificate in it is served")))
            }
            Some(Known { certificate: None, fault }) => {
                Err(invalid(is(fault.as_deref().unwrap_or("holds nothing"))))
            }
        }
    }
}

/// The Secrets that listeners refer to, and may.
pub(super) fn secrets_of<'l>(
    listeners: &'l [GatewayListeners],
    owner: Referrer<'l>,
    grants: &'l Grants<'_>,
) -> impl Iterator<Item = ObjectName> + use<'l> {
    let references = listeners.iter().filter(|listener| ends_tls(listener)).flat_map(references);
    references.filter_map(move |reference| {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        let namespace = namespace_of(reference, owner);
        let may = (group, kind) == ("", "Secret")
            && grants.permit(owner, "Secret", namespace, &reference.name);
        may.then(|| ObjectName::new(namespace, reference.name.as_str()).ok()).flatten()
    })
}

/// All certificates that a snapshot names, in order.
pub(super) fn of_snapshot(index: &Index, snapshot: &Snapshot) -> Vec<Certificate> {
    let ids = snapshot.certificates();
    let known = ids.into_iter().filter_map(|id| index.secret(&id.secret)?.certificate.as_ref());
    known.cloned().collect()
}

fn references(listener: &GatewayListeners) -> impl Iterator<Item = &Reference> {
    listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten())
}

fn namespace_of<'r>(reference: &'r Reference, owner: Referrer<'r>) -> &'r str {
    reference.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(owner.namespace)
}
