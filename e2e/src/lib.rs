//! Tests that need root, namespaces or a cluster.

#![forbid(unsafe_code)]
