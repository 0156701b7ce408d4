//! The certificates of listeners that end TLS: references to Secrets, resolved.

use std::collections::BTreeSet;

use blixt_model::{Certificate, CertificateId, ObjectName, Snapshot};

use super::grants::{Grants, Referrer};
use super::listeners::ends_tls;
use super::sets;
use crate::apis::{GatewayListeners, GatewayListenersTlsCertificateRefs as Reference};
use crate::index::Index;
use crate::status::reason;

/// What references may be resolved with.
pub(super) struct Secrets<'a> {
    pub(super) index: &'a Index,
    pub(super) grants: Grants<'a>,
}

/// The certificates of one listener.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// Those that can be used, in the order of the spec.
    pub(super) good: Vec<CertificateId>,
    /// What is wrong with the others: reason and message.
    pub(super) problem: Option<(&'static str, String)>,
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
            match self.certificate(reference, owner) {
                Ok(id) if found.good.contains(id) => {}
                Ok(id) => found.good.push(id.clone()),
                Err((reason, why)) => {
                    problems.push((reason, format!("certificateRefs[{position}] {why}")));
                }
            }
        }
        let foreign = problems.iter().find(|(reason, _)| *reason == reason::REF_NOT_PERMITTED);
        if let Some(&(reason, _)) = foreign.or(problems.first()) {
            let texts: Vec<_> = problems.iter().map(|(_, text)| text.as_str()).collect();
            found.problem = Some((reason, format!("{}.", texts.join("; "))));
        }
        found
    }

    fn certificate(
        &self,
        reference: &Reference,
        owner: Referrer<'_>,
    ) -> Result<&CertificateId, (&'static str, String)> {
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
        match secret.and_then(|secret| self.index.certificate(&secret)) {
            None => Err(invalid(format!("is Secret {namespace}/{name}, which does not exist"))),
            Some(Err(why)) => Err(invalid(format!("is Secret {namespace}/{name}, which {why}"))),
            Some(Ok(certificate)) => Ok(&certificate.id),
        }
    }
}

/// The Secrets that listeners of this controller's Gateways refer to, and may:
/// no other ones need be read.
pub fn wanted_secrets(index: &Index, controller_name: &str) -> BTreeSet<ObjectName> {
    let grants = Grants::new(index);
    let ours = |class: &String| {
        index.classes().get(class).is_some_and(|it| it.spec.controller_name == controller_name)
    };
    let gateways = index.gateways().iter().filter(|(_, it)| ours(&it.spec.gateway_class_name));
    let mut wanted = BTreeSet::new();
    for (name, gateway) in gateways {
        let owner = Referrer { kind: "Gateway", namespace: name.namespace() };
        wanted.extend(secrets_of(&gateway.spec.listeners, owner, &grants));
    }
    for (name, set) in index.sets() {
        let Some(gateway_name) = &set.spec.gateway else { continue };
        let Some(gateway) = index.gateways().get(gateway_name) else { continue };
        if ours(&gateway.spec.gateway_class_name)
            && sets::is_let_in(gateway, gateway_name, name, index)
        {
            let owner = Referrer { kind: "ListenerSet", namespace: name.namespace() };
            wanted.extend(secrets_of(&set.spec.listeners, owner, &grants));
        }
    }
    wanted
}

fn secrets_of<'l>(
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
    let known = ids.into_iter().filter_map(|id| index.certificate(&id.secret)?.as_ref().ok());
    known.cloned().collect()
}

fn references(listener: &GatewayListeners) -> impl Iterator<Item = &Reference> {
    listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten())
}

fn namespace_of<'r>(reference: &'r Reference, owner: Referrer<'r>) -> &'r str {
    reference.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(owner.namespace)
}
