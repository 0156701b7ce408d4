//! How the API server is spoken to: who watches waits for as long as nothing
//! happens, whoever asks wants an answer.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;
use tower_http::timeout::ResponseBodyTimeoutLayer;

/// How long an answer may take, until it begins and then between its parts. A leader
/// that lost its lease stops by itself 3 s before another one begins (`crate::leader`):
/// by then its last request is answered, or given up. It is no matter of connections:
/// one may have been idle for almost as long when it is asked on.
const ANSWER: Duration = Duration::from_secs(3);

/// The two ways.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For watches, and the lists that they begin with.
    pub(crate) watching: Client,
    /// For everything else.
    pub(crate) asking: Client,
}

impl Clients {
    pub(crate) fn new(config: Config) -> Result<Self, kube::Error> {
        let mut asking = config.clone();
        asking.connect_timeout = Some(ANSWER);
        asking.write_timeout = Some(ANSWER);
        // Who asks sees itself that it failed, and tries again in its time.
        asking.default_retry = false;
        let asking = ClientBuilder::try_from(asking)?
            .with_layer(&ResponseBodyTimeoutLayer::new(ANSWER))
            .with_layer(&TimeoutLayer::new(ANSWER))
            .build();
        Ok(Self { watching: Client::try_from(config)?, asking })
    }
}
