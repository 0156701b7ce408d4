//! Whether an agent got through its start with what a GatewayConfig says of it: a
//! file in the state directory is there while it tries. Where that killed the last
//! one (for memory, say) the next one goes without, and hears of better.

use std::fs;
use std::path::{Path, PathBuf};

use blixt_model::Settings as Configurable;
use tracing::warn;

/// The file's name in the state directory.
const FILE: &str = "settings-tried";

/// A try that is not over.
#[derive(Debug)]
pub(crate) struct Attempt(PathBuf);

impl Attempt {
    /// Begins.
    pub(crate) fn begin(state_dir: &Path, wanted: &Configurable) -> Self {
        let file = state_dir.join(FILE);
        if *wanted != Configurable::default()
            && let Err(error) = fs::write(&file, text(wanted))
        {
            warn!("{} can't be written: {error}", file.display());
        }
        Self(file)
    }

    /// It went well, or was ended from outside.
    pub(crate) fn end(self) {
        // Mostly there is none.
        let _ = fs::remove_file(self.0);
    }
}

/// Whether the last agent began with the same, and did not get through it.
pub(crate) fn failed(state_dir: &Path, wanted: &Configurable) -> bool {
    fs::read_to_string(state_dir.join(FILE)).is_ok_and(|tried| tried == text(wanted))
}

fn text(wanted: &Configurable) -> String {
    format!("{wanted:?}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_in_vain_is_known_by_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let (state, none) = (place.path(), Configurable::default());
        let large = Configurable { flow_capacity: Some(1 << 24), ..none.clone() };
        assert!(!failed(state, &large));
        drop(Attempt::begin(state, &large));
        assert!(failed(state, &large) && !failed(state, &none), "it died");
        // The next one goes without that.
        Attempt::begin(state, &large).end();
        assert!(!failed(state, &large));
        drop(Attempt::begin(state, &none));
        assert!(!failed(state, &none), "flags alone are always tried");
    }
}
