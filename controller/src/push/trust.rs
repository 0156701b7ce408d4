//! The CA in force, and the newest server certificate that it signed.
//! Connections that are open keep what they began with.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::info;

use super::certificates::{Authority, LIFE, Material, TrustError};

/// The CA and the server certificate in force. Copies are one.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    authority: ArcSwapOption<Authority>,
    server: ArcSwapOption<ServerConfig>,
    made: RwLock<Option<Made>>,
}

/// What both were made of, and when, and when that CA ends.
#[derive(Debug, Clone)]
struct Made {
    of: Material,
    at: SystemTime,
    expires: SystemTime,
}

impl Trust {
    /// Nobody can be let in yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a CA, and makes a server certificate of it. On an error the last
    /// ones stay.
    pub fn update(&self, material: &Material) -> Result<(), TrustError> {
        if self.made().as_ref().is_some_and(|made| made.of == *material) {
            return self.renew(SystemTime::now());
        }
        self.make(material, SystemTime::now())
    }

    /// Makes a new server certificate where the last one has had half of its
    /// life. Call it now and then.
    pub fn renew(&self, now: SystemTime) -> Result<(), TrustError> {
        match self.made() {
            // A clock that was put back is as good a reason.
            Some(made) if now.duration_since(made.at).is_ok_and(|age| age < LIFE / 2) => Ok(()),
            Some(made) => self.make(&made.of, now),
            None => Ok(()),
        }
    }

    fn make(&self, material: &Material, now: SystemTime) -> Result<(), TrustError> {
        let authority = Authority::open(material)?;
        let server = authority.server(now)?;
        let made = Made { of: material.clone(), at: now, expires: authority.expires() };
        self.0.authority.store(Some(Arc::new(authority)));
        self.0.server.store(Some(Arc::new(server)));
        *self.0.made.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
        info!("there is a new server certificate");
        Ok(())
    }

    fn made(&self) -> Option<Made> {
        self.0.made.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The CA in force, as it was taken.
    pub(crate) fn material(&self) -> Option<Material> {
        self.made().map(|made| made.of)
    }

    /// When the CA and the server certificate end.
    pub(crate) fn expires(&self) -> Option<[(&'static str, SystemTime); 2]> {
        let made = self.0.made.read().unwrap_or_else(PoisonError::into_inner);
        let made = made.as_ref()?;
        Some([("ca", made.expires), ("server", made.at + LIFE)])
    }

    /// How clients are let in, if there is a CA yet.
    pub(crate) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.0.server.load_full()
    }

    /// The CA, if there is one yet.
    pub(crate) fn authority(&self) -> Option<Arc<Authority>> {
        self.0.authority.load_full()
    }

    /// All that certificates may be signed by, as PEM.
    pub fn bundle(&self) -> Option<String> {
        self.authority().map(|authority| authority.bundle().to_owned())
    }
}

/// For whoever else serves by TLS here: the server certificate in force.
impl ResolvesServerCert for Trust {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.server.load_full()?.cert_resolver.resolve(hello)
    }
}
