//! Gateway API objects in, snapshot and status conditions out; pure.
