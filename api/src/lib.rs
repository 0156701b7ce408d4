//! What agent, controller and CLI say to each other.
