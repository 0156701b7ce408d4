//! Map names and layouts that the XDP program and the agent share.
