//! Whether the agent can serve traffic, as replicas are told with each beat: one
//! that can't shall own no VIP.

use std::time::{Duration, Instant};

/// How long the control thread may stand still. It says how it is once a
/// second, even where there is nothing to do.
const STUCK: Duration = Duration::from_secs(5);

/// How it is with the agent, as the control thread saw it last.
#[derive(Debug, Clone)]
pub struct Serving {
    trouble: String,
    /// When it said so; before it has said anything it owes nothing.
    at: Option<Instant>,
    /// Until when it is not to be relied on.
    unsteady: Option<Instant>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { trouble: "the agent is starting".to_owned(), at: None, unsteady: None }
    }
}

impl Serving {
    /// It is so now; without trouble it serves, though perhaps not for long.
    pub fn now(trouble: Option<String>, unsteady: Option<Instant>) -> Self {
        Self { trouble: trouble.unwrap_or_default(), at: Some(Instant::now()), unsteady }
    }

    /// Whether it could not serve again and again of late.
    pub(super) fn is_unsteady(&self) -> bool {
        self.unsteady.is_some_and(|until| Instant::now() < until)
    }

    /// Why it can't serve; empty while it can.
    pub(super) fn trouble(&self) -> String {
        match self.at {
            Some(at) if self.trouble.is_empty() && at.elapsed() > STUCK => {
                format!("the agent's control thread has not moved for {STUCK:?}: restart the agent")
            }
            _ => self.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_thread_that_says_nothing_is_trouble() {
        assert_eq!(Serving::default().trouble(), "the agent is starting");
        assert_eq!(Serving::now(None, None).trouble(), "");
        assert_eq!(Serving::now(Some("no link".to_owned()), None).trouble(), "no link");
        let ago = Instant::now().checked_sub(2 * STUCK);
        let silent = Serving { at: ago, ..Serving::now(None, None) };
        let why = "the agent's control thread has not moved for 5s: restart the agent";
        assert_eq!(silent.trouble(), why);
        let soon = Instant::now() + Duration::from_secs(60);
        let unsteady = [None, ago, Some(soon)].map(|until| Serving::now(None, until).is_unsteady());
        assert_eq!(unsteady, [false, false, true]);
    }
}
