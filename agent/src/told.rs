//! What others watch: told where it is news, so that nobody wakes for nothing.

use tokio::sync::watch;

/// Tells it, if it is another value than before.
pub(crate) fn tell<T: PartialEq>(told: &watch::Sender<T>, value: T) {
    told.send_if_modified(|told| {
        let news = *told != value;
        *told = value;
        news
    });
}
